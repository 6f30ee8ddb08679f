"""The paper's network with VGG16 in PyTorch, to time beside ours: the same layers, with the authors' names."""

import statistics
import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

WIDTHS = (512, 256, 128, 64, 32)  # of the five decoder levels
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # VGG16's channels and convolutions
GAMMA = 0.1  # weight of the depth terms (paper)


class SelectiveFields(nn.Module):
    """The SRFB as the authors' code has it: each dilated convolution reads the one before."""

    def __init__(self, width):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, k, padding=k * (k // 2), dilation=k), nn.BatchNorm2d(width), nn.ReLU()
            )
            for k in (3, 5, 7)
        )
        squeezed = max(width // 16, 32)
        self.fc = nn.Linear(width, squeezed)
        self.fcs = nn.ModuleList(nn.Linear(squeezed, width) for _ in range(4))

    def forward(self, x):
        """[B, C, H, W] to the same shape."""
        branches = [x]
        for conv in self.convs:
            branches.append(conv(branches[-1]))
        total: Any = sum(branches)
        z = self.fc(total.mean(dim=(2, 3)))
        weights = torch.stack([excite(z) for excite in self.fcs]).softmax(dim=0)
        return sum(w[:, :, None, None] * y for w, y in zip(weights, branches, strict=True))


class Level(nn.Module):
    """x2 -> conv3x3 -> ReLU -> BN -> SRFB -> conv1x1 -> ReLU -> BN."""

    def __init__(self, channels, features):
        super().__init__()
        inner = channels // 4
        self.prev, self.bn = nn.Conv2d(channels, inner, 3, padding=1), nn.BatchNorm2d(inner)
        self.sk = SelectiveFields(inner)
        self.next, self.bn2 = nn.Conv2d(inner, features, 1), nn.BatchNorm2d(features)

    def forward(self, x):
        """[B, C, H, W] to [B, features, 2H, 2W]."""
        x = self.bn(F.relu(self.prev(F.interpolate(x, scale_factor=2, mode="nearest"))))
        return self.bn2(F.relu(self.next(self.sk(x))))


class Attention(nn.Module):
    """The SAB: an attention map from a level's side outputs."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(2, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, sides):
        """[B, 2, H, W] to [B, 1, H, W]."""
        return torch.sigmoid(self.conv2(self.bn(F.relu(self.conv1(sides)))))


class PaperNetwork(nn.Module):
    """Normalized images [B, 3, H, W] to the fused focus and depth [B, 2, H, W], and five enlarged side outputs."""

    def __init__(self):
        super().__init__()
        channels = (3, *(width for width, _ in STAGES))
        self.encoder = nn.ModuleList(
            nn.Sequential(
                *(layer for i in range(n) for layer in (nn.Conv2d(c if i == 0 else w, w, 3, padding=1), nn.ReLU()))
            )
            for c, (w, n) in zip(channels, STAGES, strict=False)
        )
        self.levels = nn.ModuleList(Level(c, w) for c, w in zip((512, *WIDTHS), WIDTHS, strict=False))
        self.sides = nn.ModuleList(nn.Conv2d(w, 2, 1) for w in WIDTHS)
        self.attention = nn.ModuleList(Attention() for _ in WIDTHS[:-1])
        self.fusion, self.fusiond = nn.Conv2d(5, 1, 1), nn.Conv2d(5, 1, 1)

    def forward(self, images):
        """Runs all of it."""
        x, taps = images, []
        for stage in self.encoder:
            x = F.max_pool2d(stage(x), 2)
            taps.append(x)
        sides = []
        for i, level in enumerate(self.levels):
            x = level(x)
            sides.append(self.sides[i](x))
            if i < len(self.attention):
                x = x * self.attention[i](sides[-1]) + taps[-2 - i]
        sides = [F.interpolate(s.float(), size=images.shape[2:], mode="bilinear") for s in sides]
        focus = self.fusion(torch.cat([s[:, :1] for s in sides], 1))
        return torch.cat([focus, self.fusiond(torch.cat([s[:, 1:] for s in sides], 1))], 1), sides


def joint_loss(output, mask, depth):
    """Cross-entropy of focus and L1 of depth, on the fused output and on each side output, enlarged."""
    fused, sides = output
    total: Any = 0.0
    for maps in (fused, *sides):
        focus = F.binary_cross_entropy_with_logits(maps[:, :1].float(), mask)
        total = total + focus + GAMMA * (maps[:, 1:].float() - depth).abs().mean()
    return total


def timed(mode, dtype, batch, size, compiled, device, repeats):
    """Median seconds of a forward pass, or of a training step with Adam, of a batch in channels-last layout."""
    network = PaperNetwork().to(device, memory_format=torch.channels_last).train(mode == "train")
    run = torch.compile(network) if compiled else network
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    mask, depth = (torch.rand(batch, 1, size, size, device=device) for _ in range(2))
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, fused=True)
    mixed = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def step():
        with mixed:
            loss = joint_loss(run(images), mask, depth)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def forward():
        with torch.inference_mode(), mixed:
            run(images)

    call, times = (step if mode == "train" else forward), []
    for _ in range(repeats + 3):  # the first ones compile and choose algorithms
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])
