"""Compare our losses with lightly's in float64, and check lightly's with our conformance suite.

Prints the two tables of docs/correctness.md; takes less than a minute.

    pip install 'ssl-zoo[bench]'
    python -m benchmarks.losses               # both tables
    python -m benchmarks.losses --no-checks   # the first one alone, in seconds
"""

from __future__ import annotations

import argparse
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_zoo.nn import (
    Centre,
    across,
    info_nce,
    koleo,
    nt_xent,
    sigreg,
    sinkhorn,
    soft_cross_entropy,
    unit,
)
from ssl_zoo.testing import loss_checks, run_checks
from ssl_zoo_vision.distillation.msn import mean_entropy_gap
from ssl_zoo_vision.distillation.simsiam import negative_cosine
from ssl_zoo_vision.redundancy.barlow_twins import barlow_twins_loss
from ssl_zoo_vision.redundancy.lejepa import invariance
from ssl_zoo_vision.redundancy.tico import SecondMoment, tico_loss
from ssl_zoo_vision.redundancy.vicreg import regularisers
from ssl_zoo_vision.redundancy.w_mse import w_mse_loss

try:
    import lightly
    import lightly.loss as theirs
    from lightly.loss.swav_loss import sinkhorn as their_sinkhorn
except ImportError as error:
    sys.exit(f"lightly cannot be imported ({error}); install it with: pip install 'ssl-zoo[bench]'")

B, D, K = 32, 16, 24
Losses = Callable[..., Tensor]
Row = tuple[str, Losses, Losses, int]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cosines(z: Tensor) -> Tensor:
    """Return the scores [B, K] of embeddings [B, D] for fixed prototypes."""
    return unit(z) @ unit(normal(K, D, seed=9)).T


def pairs() -> Iterator[Row]:
    """Yield a name, our loss, lightly's, and the number of embeddings [B, D] that they take."""
    yield (
        "NT-Xent (SimCLR), τ 0.5",
        lambda a, b: nt_xent(unit(a), unit(b), 0.5),
        theirs.NTXentLoss(0.5),
        2,
    )
    yield "DCL, τ 0.1", lambda a, b: nt_xent(unit(a), unit(b), 0.1, True), theirs.DCLLoss(0.1), 2
    torch.manual_seed(0)  # of the bank's rows
    bank = theirs.NTXentLoss(0.2, memory_bank_size=(64, D)).double()
    queue = bank.memory_bank.bank.clone().double()  # [D, 64], before the call moves it
    queue = queue.T if queue.shape[0] == D else queue
    yield (
        "InfoNCE with a queue (MoCo), τ 0.2",
        lambda q, k: info_nce(unit(q), unit(k.detach()), queue, 0.2),
        lambda q, k: bank(q, k.detach()),
        2,
    )
    yield (
        "negative cosine (SimSiam)",
        negative_cosine,
        lambda p, z: theirs.NegativeCosineSimilarity()(p, z.detach()),
        2,
    )
    yield (
        "Barlow Twins, λ 0.005",
        lambda a, b: barlow_twins_loss(a, b, 0.005),
        theirs.BarlowTwinsLoss(0.005),
        2,
    )
    yield "VICReg, 25 : 25 : 1", vicreg, theirs.VICRegLoss(), 2
    yield (
        "TiCo, β 0.9, ρ 8",
        lambda a, b: tico_loss(unit(a), unit(b), SecondMoment(D, 0.9).double()(unit(a))),
        theirs.TiCoLoss(),
        2,
    )
    yield (
        "W-MSE, one slice",
        lambda a, b: w_mse_loss([a, b], torch.arange(B), B),
        lambda a, b: theirs.WMSELoss(embedding_dim=D, w_size=B).double()(torch.cat([a, b])),
        2,
    )
    yield "KoLeo", koleo, theirs.KoLeoLoss(), 1
    yield "SIGReg, 64 directions", lambda z: sigreg(z, directions()), their_sigreg, 1
    yield (
        "LeJEPA, 2 large and 2 small crops",
        our_lejepa,
        their_lejepa,
        4,
    )
    yield (
        "Sinkhorn-Knopp, sum of squares",
        lambda z: sinkhorn(cosines(z) / 0.05).pow(2).sum() + 0 * z.sum(),
        lambda z: their_sinkhorn(cosines(z)).pow(2).sum() + 0 * z.sum(),
        1,
    )
    yield (
        "SwAV, 2 large and 1 small crop",
        lambda *z: across([sinkhorn(cosines(x) / 0.05) for x in z[:2]], [cosines(x) for x in z], 0.1),
        lambda *z: theirs.SwaVLoss()([cosines(x) for x in z[:2]], [cosines(z[2])])[0],
        3,
    )
    yield "DINO, second step, 2 large and 1 small crop", our_dino, their_dino, 3
    yield "iBOT, hidden patches", our_patches, their_patches, 1
    yield "MSN, with its regulariser", our_msn, their_msn, 2


def vicreg(a: Tensor, b: Tensor) -> Tensor:
    (v1, c1), (v2, c2) = regularisers(a), regularisers(b)
    return 25 * F.mse_loss(a, b) + 25 * (v1 + v2) / 2 + c1 + c2


def directions() -> Tensor:
    """Return the directions [64, D] that lightly draws after seed 0."""
    torch.manual_seed(0)
    return torch.randn(D, 64, dtype=torch.float64).T


def their_sigreg(z: Tensor) -> Any:
    torch.manual_seed(0)
    return theirs.SIGReg(num_vectors=64).double()(z)


def our_lejepa(*z: Tensor) -> Tensor:
    spread = torch.stack([sigreg(x, directions()) for x in z]).mean()
    return 0.95 * invariance(z, 2) + 0.05 * spread


def their_lejepa(*z: Tensor) -> Any:
    torch.manual_seed(0)
    loss = theirs.LeJEPALoss(lambda_param=0.05, sigreg_num_vectors=64).double()
    return loss(global_proj=torch.stack(z[:2]), local_proj=torch.stack(z[2:]))


def our_dino(*z: Tensor) -> Tensor:
    """Return the loss with the centre that a first step has left."""
    centre = Centre(K).double()
    centre.note(torch.stack([normal(B, K, seed=20), normal(B, K, seed=21)]))
    centre.update()
    targets = [F.softmax(centre(normal(B, K, seed=s)) / 0.04, dim=1) for s in (22, 23)]
    return across(targets, [cosines(x) for x in z], 0.1)


def their_dino(*z: Tensor) -> Any:
    loss = theirs.DINOLoss(output_dim=K).double()
    student = [cosines(x) for x in z]
    loss([normal(B, K, seed=20), normal(B, K, seed=21)], student)
    return loss([normal(B, K, seed=22), normal(B, K, seed=23)], student)


def hidden() -> Tensor:
    """Return masks [5, 3, 4] of five images that hide 32 patches, of one image none."""
    masks = torch.zeros(5, 12, dtype=torch.bool)
    for i, count in enumerate((3, 12, 0, 11, 6)):
        masks[i, :count] = True
    return masks.view(5, 3, 4)


def our_patches(z: Tensor) -> Tensor:
    targets = F.softmax(normal(B, K, seed=22) / 0.04, dim=1)
    counts = hidden().flatten(1).sum(1)
    weights = 1 / (5 * counts.repeat_interleave(counts).double())
    return soft_cross_entropy(targets, cosines(z), 0.1, weights=weights)


def their_patches(z: Tensor) -> Any:
    return theirs.IBOTPatchLoss(output_dim=K).double()(normal(B, K, seed=22), cosines(z), hidden())


def our_msn(anchors: Tensor, targets: Tensor) -> Tensor:
    q = sinkhorn((cosines(targets) / 0.1 / 0.25).log_softmax(1))
    scores = cosines(anchors)
    return soft_cross_entropy(q, scores, 0.1) + mean_entropy_gap((scores / 0.1).softmax(1))


def their_msn(anchors: Tensor, targets: Tensor) -> Any:
    return theirs.MSNLoss()(anchors, targets, normal(K, D, seed=9))


def difference(ours: Losses, others: Losses, number: int) -> tuple[float, float, float]:
    """Return our loss, and how far the other's value and gradients are from ours, as shares of these."""
    values, gradients = [], []
    for loss in (ours, others):
        z = [(normal(B, D) + 0.7 * normal(B, D, seed=i + 1)).requires_grad_() for i in range(number)]
        torch.manual_seed(0)  # of W-MSE's permutation
        value = loss(*z)
        found = torch.autograd.grad(value, z, allow_unused=True)
        zeros = zip(found, z, strict=True)
        gradients.append(torch.cat([torch.zeros_like(x) if g is None else g for g, x in zeros]))
        values.append(value.item())
    apart = (gradients[1] - gradients[0]).norm() / gradients[0].norm().clamp(min=1e-30)
    return values[0], abs(values[1] - values[0]) / abs(values[0]), float(apart)


CHECKED: tuple[tuple[str, dict[str, Any], str | None], ...] = (
    ("NTXentLoss", {}, None),
    ("NTXentLoss", {"memory_bank_size": [64, 8]}, None),
    ("DCLLoss", {}, None),
    ("DCLWLoss", {}, None),
    ("DirectCLRLoss", {}, None),
    ("MACLLoss", {}, None),
    ("NegativeCosineSimilarity", {}, None),
    ("BarlowTwinsLoss", {}, None),
    ("VICRegLoss", {}, None),
    ("TiCoLoss", {}, None),
    ("FroSSLLoss", {}, None),
    ("EMPSSLLoss", {}, None),
    ("MMCRLoss", {}, "Bx2xD, Bx2xD"),
    ("KoLeoLoss", {}, None),
    ("SIGReg", {}, None),
    ("LeJEPALoss", {}, "{local_proj: 2xBxD, global_proj: 2xBxD}"),
    ("VISRegLoss", {}, "{local_proj: 2xBxD, global_proj: 2xBxD}"),
    ("SwaVLoss", {}, "[BxD, BxD], [BxD]"),
    ("DINOLoss", {"output_dim": 8}, None),
    ("IBOTPlusPlusPatchLoss", {"output_dim": 8}, "Bx9xD, Bx9xD"),
    ("CAPILoss", {}, "Bx9xD, Bx9xD"),
    ("MSNLoss", {}, "BxD, BxD, 16xD"),
    ("PMSNLoss", {}, "BxD, BxD, 16xD"),
    ("PatchKernelAlignmentLoss", {}, "Bx9xD, Bx9xD"),
)
"""The losses of lightly that take embeddings alone, with arguments and inputs."""


def checked(name: str, arguments: dict[str, Any], inputs: str | None) -> str:
    """Return a row of the second table: what the suite finds with a loss of lightly."""
    loss = getattr(theirs, name)
    flags = [n for n in inspect.signature(loss).parameters if "gather_distributed" in n]
    given = {**arguments, **dict.fromkeys(flags, True)}
    results = list(run_checks(loss_checks(loss, given, inputs=inputs)))
    two = results.pop()
    found = [f"`{r.check.name}`: {r.note}" for r in results if r.bad]
    shown = ", ".join(f"{n}={v}" for n, v in given.items())
    cells = (
        f"`{name}({shown})`",
        "as one" if two.status == "passed" else two.note,
        "; ".join(found) or "nothing",
    )
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Compare our losses with lightly's.")
    parser.add_argument("--checks", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"lightly {lightly.__version__}\n")
    print("| loss | ours | difference of lightly's | of its gradient |\n|---|---|---|---|")
    for name, ours, others, number in pairs():
        value, error, gradient = difference(ours, others, number)
        print(f"| {name} | {value:.6f} | {error:.0e} | {gradient:.0e} |", flush=True)
    if arguments.checks:
        print("\n| loss of lightly | two processes | what else was found |\n|---|---|---|")
        for entry in CHECKED:
            print(checked(*entry), flush=True)


if __name__ == "__main__":
    main()
