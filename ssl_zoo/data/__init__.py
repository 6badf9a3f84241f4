"""stub"""
import gzip
from dataclasses import dataclass
import numpy as np, torch
from ssl_zoo.spec import ImageSpec
class Split:
    def __init__(self, x, y): self.x, self.labels, self.skipped = x, y, {}
    def __len__(self): return len(self.x)
    def batch(self, i): return self.x[i]
@dataclass
class DataSet:
    name: str
    spec: ImageSpec
    train: Split
    test: Split
    bank: Split
def load(config, device, sources=None):
    if config.source == "digits":
        from sklearn.datasets import load_digits
        d = load_digits(); x = torch.from_numpy(d.images).mul(255/16).round().byte()[:, None]; y = torch.from_numpy(d.target)
        p = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)); a, b = p[360:], p[:360]
        tr, te = Split(x[a], y[a]), Split(x[b], y[b]); size, mirror = 16, False
    else:
        def idx(f,off): return torch.from_numpy(np.frombuffer(gzip.open('/usr/share/datasets/fashion-mnist/'+f).read(),np.uint8,offset=off).copy())
        tr = Split(idx('train-images-idx3-ubyte.gz',16).view(-1,1,28,28), idx('train-labels-idx1-ubyte.gz',8).long())
        te = Split(idx('t10k-images-idx3-ubyte.gz',16).view(-1,1,28,28), idx('t10k-labels-idx1-ubyte.gz',8).long()); size, mirror = 28, True
    f = tr.x.float()/255
    return DataSet(config.source, ImageSpec(channels=1, size=config.image_size or size, mean=(f.mean().item(),), std=(f.std().item(),), mirror=mirror), tr, te, tr)
def batches(split, indices, batch_size, drop_last, prefetch=2):
    for i in indices.split(batch_size):
        if len(i) == batch_size or not drop_last: yield split.batch(i)
