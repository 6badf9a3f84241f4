"""Speed and time to accuracy of SimCLR in ssl-zoo and in other libraries.

    pip install 'ssl-zoo[bench]'
    python -m benchmarks.peers                       # Fashion-MNIST; --data digits for a quick try

All contestants have the same data, initial weights, batch size, widths of the head, temperature,
strengths of the augmentation, optimiser (timm's), learning-rate schedule, threads and cores. Each is
described in the module of its name, with its differences; "bf16" stands for autocast to bfloat16 with
channels last. A peer that is not installed, or cannot take the settings, is left out with a line.

These differences hold for all:

- Labels are not loaded. The workers stay alive, and their start is not counted; and for the time to
  accuracy, the batches that they have made by then are not counted either.
- ssl-zoo checks each loss and reads the metrics every `log_every` steps. lightly-train logs in its
  own way; the other loops do neither.

**Throughput**: contestants in turn, in another order each round. **Time to accuracy**: each trains
`--epochs`, and its encoder is evaluated (weighted kNN on the test split). Then ssl-zoo trains again,
with its schedule spread over the minutes of the slowest peer, until it has reached the accuracy of every
peer; it is evaluated at every tenth of an epoch. As it stops early, its learning rate has not decreased
as far as the peers'. In return it is evaluated several times, which favours it if the test split is
small. The time of evaluation is not counted.
"""
