"""Make the map of the shipped tasks: ``python -m tests.zoo > docs/zoo.md``.

Names, papers, ideas and passes are those of the classes; docs/zoo.yaml says what a task asks and when to
choose it; `benchmarks/zoo.py` measures memory and draws the pictures.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import entry_points
from itertools import groupby
from pathlib import Path

import yaml

from ssl_zoo.plugins.registry import registry
from ssl_zoo.task import Task

DOCS = Path(__file__).parent.parent / "docs"

FAMILIES = {
    "contrastive": "Two views of an image attract each other, and other images repel.",
    "distillation": "A network predicts what a teacher makes of another view.",
    "clustering": "Images are sorted into clusters, which are then predicted.",
    "redundancy": "Views agree, and features are kept from repeating each other.",
    "masked": "A part of the image is hidden, and predicted from the rest.",
    "predictive": "What was done to the image is predicted.",
    "generative": "The image itself is produced.",
    "baseline": "Labels are used: what training with all labels gives.",
}

HEAD = """\
# The map of the field

All tasks for images that ship with ssl-zoo, by family, in the order of their papers; those on
[text](text.md#tasks) and [sound](audio.md#which-task) are on pages of their own. `ssl-zoo tasks NAME`
lists the options of one. The page is made by `python -m tests.zoo > docs/zoo.md`; pictures and
memory by

    python -m benchmarks.zoo

- passes: passes of an image through a network, a teacher's included, in each step.
- memory: parameters and buffers beside the network that is trained, such as heads, teachers, queues and
  banks, in MB in float32: with the default options, for 100,000 images at 224 pixels, and a ResNet-50
  or, where a task needs one, a ViT-S/16. What a step keeps for the backward pass comes on top of it, and
  grows with the passes.

Where a task asks which views are of one image, the picture shows its answer too: the three views that
it finds most like view 1 among those of all rows, each with the cosine of both embeddings, after 60
steps on these images alone. The frame is around the right one. A task with a single view looks among the
sources. Of a task that compares places, view 1 is also put together from the places of view 2 that it
finds most like those of view 1. Where a task asks about one image, the last columns are its answer after
200 steps on these images alone: what it paints, turns back, or puts in order. A task that predicts no
pixels, such as `i-jepa`, shows the patches whose targets are nearest to its predictions; those of
`beit`, whose codes tell the form alone, are as bright as what they stand for. Of `relative-patch` the
patches stay that it places right.
`ssl-zoo views --run RUN -o views.png` draws the same for a run of your own.
"""

FOOT = """
The pictures are parts of two photographs by danielbuechele and vultilion (Flickr, CC BY 2.0), which come
with scikit-learn, as each task draws them.
"""


def shipped() -> dict[str, type[Task]]:
    """Return the classes of the tasks of the vision plugin by their names."""
    names = [p.name for p in entry_points(group="ssl_zoo") if p.value.startswith("ssl_zoo_vision.")]
    tasks = {name: registry.load_task(name) for name in names if name in registry.tasks()}
    families = list(FAMILIES)
    return dict(
        sorted(tasks.items(), key=lambda item: (families.index(item[1].family), year(item[1]), item[0]))
    )


def year(task: type[Task]) -> str:
    """Return the year of a task's paper."""
    found = re.search(r"\b(19|20)\d\d\b", task.paper)
    return found.group() if found else ""


def linked(paper: str) -> str:
    """Return a paper as Markdown, its numbers in arXiv as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)


def idea(task: type[Task]) -> str:
    """Return the first sentence of a task's docstring."""
    return " ".join((task.__doc__ or "").strip().split("\n\n")[0].split())


def page() -> str:
    """Return the page."""
    words = yaml.safe_load((DOCS / "zoo.yaml").read_text(encoding="utf-8"))
    memory = json.loads((DOCS / "zoo" / "memory.json").read_text(encoding="utf-8"))
    tasks = shipped()
    lines = [HEAD, "| task | family | year | passes | memory, MB |", "|---|---|---:|---:|---:|"]
    for name, task in tasks.items():
        passes = f"{task.passes:g}" if task.passes else ""
        size = f"{memory[name]:,.0f}"
        lines.append(f"| [`{name}`](#{name}) | {task.family} | {year(task)} | {passes} | {size} |")
    for family, members in groupby(tasks.items(), key=lambda item: item[1].family):
        lines += ["", f"## {family.capitalize()}", "", FAMILIES[family]]
        for name, task in members:
            lines += ["", f"### {name}", "", f"{idea(task)} {linked(task.paper)}."]
            needs = f"\n- needs: {task.prerequisites}" if task.prerequisites else ""
            lines += ["", f"- asks: {words[name]['asks']}{needs}"]
            lines += [f"- choose it when: {words[name]['choose']}", ""]
            lines += [f"![Views of {name}](zoo/{name}.png)"]
    return "\n".join(lines) + "\n" + FOOT


if __name__ == "__main__":
    print(page(), end="")
