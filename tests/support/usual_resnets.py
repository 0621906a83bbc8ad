"""ResNets for CIFAR as PyTorch users write them, under their names; a helper of tests.

Written here, from the names and the order of operations that are in common use.
"""

import torch
from torch import nn
from torch.nn import functional as F


def conv(before, after, kernel, stride):
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


class OptionA(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class BasicBlock(nn.Module):
    """`shortcut` is what the attribute is called, or "A" for padding."""

    def __init__(self, before, after, stride, shortcut):
        super().__init__()
        self.conv1 = conv(before, after, 3, stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = conv(after, after, 3, 1)
        self.bn2 = nn.BatchNorm2d(after)
        self.attribute = "shortcut" if shortcut == "A" else shortcut
        if stride == 1 and before == after:
            module = nn.Sequential() if self.attribute == "shortcut" else None
        elif shortcut == "A":
            module = OptionA(after - before)
        else:
            projection = conv(before, after, 1, stride)
            module = nn.Sequential(projection, nn.BatchNorm2d(after))
        setattr(self, self.attribute, module)

    def forward(self, x):
        shortcut = getattr(self, self.attribute)
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (shortcut(x) if shortcut is not None else x))


class ResNet(nn.Module):
    def __init__(self, sizes, widths, shortcut="shortcut", head="linear"):
        super().__init__()
        self.conv1 = conv(3, widths[0], 3, 1)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            blocks = []
            for index in range(size):
                stride = 2 if stage and not index else 1
                blocks.append(BasicBlock(before, width, stride, shortcut))
                before = width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.stages, self.head = len(sizes), head
        setattr(self, head, nn.Linear(before, 10))

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = conv(before, after, 3, stride)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = conv(after, after, 3, 1)
        same = before == after
        self.convShortcut = None if same else conv(before, after, 1, stride)

    def forward(self, x):
        y = torch.relu(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(y)
        return x + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class WideStage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, size, widths):
        super().__init__()
        self.conv1 = conv(3, 16, 3, 1)
        before = 16
        for stage, width in enumerate(widths):
            blocks = []
            for index in range(size):
                stride = 2 if stage and not index else 1
                blocks.append(WideBlock(before, width, stride))
                before = width
            setattr(self, f"block{stage + 1}", WideStage(*blocks))
        self.bn1 = nn.BatchNorm2d(before)
        self.fc = nn.Linear(before, 10)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(torch.relu(self.bn1(x)).mean((2, 3)))
