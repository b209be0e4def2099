"""A convolutional network in NumPy and xconv alone, trained on scikit-learn's digits.

Two layers of convolution, a dense layer and softmax, Adam: 97% and more of the test images are
named right.  Run it with `python examples/cnn_digits.py`; for a GPU change the line below.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as xp  # for a GPU: import cupy as xp
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import xconv

matplotlib.use("Agg")
from matplotlib import pyplot

LAYER = {"op": "correlate", "layout": "NHWC", "kernel_layout": "HWIO", "mode": "same"}


def convolution(x, k):
    return xconv.correlate(x, k, **{name: v for name, v in LAYER.items() if name != "op"})


def forward(weights, x):
    """Class scores (N, 10), and what the backward pass needs."""
    k1, b1, k2, b2, dense, bias = weights
    h1 = xp.maximum(convolution(x, k1) + b1, 0)
    h2 = xp.maximum(convolution(h1, k2) + b2, 0)
    n, h, w, c = h2.shape
    pooled = h2.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    flat = pooled.reshape(n, -1)
    return flat @ dense + bias, (x, h1, h2, flat)


def backward(weights, kept, scores, labels):
    """Mean cross entropy, and its gradients by the weights."""
    _, _, k2, _, dense, _ = weights
    x, h1, h2, flat = kept
    n, h, w, c = h2.shape
    p = xp.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -xp.log(p[xp.arange(n), labels] + 1e-12).mean()
    p[xp.arange(n), labels] -= 1
    p /= n
    g = (p @ dense.T).reshape(n, h // 2, 1, w // 2, 1, c) / 4
    g2 = xp.broadcast_to(g, (n, h // 2, 2, w // 2, 2, c)).reshape(h2.shape) * (h2 > 0)
    g1, gk2 = xconv.gradients(h1, k2, g2, **LAYER)
    g1 = g1 * (h1 > 0)
    gk1 = xconv.kernel_gradient(x, weights[0], g1, **LAYER)
    return loss, [gk1, g1.sum((0, 1, 2)), gk2, g2.sum((0, 1, 2)), flat.T @ p, p.sum(0)]


def start(rng, channels=(16, 32)):
    """Weights of both layers and of the dense one."""
    a, b = channels
    shapes = [((3, 3, 1, a), 9), ((3, 3, a, b), 9 * a), ((16 * b, 10), 16 * b)]
    weights = []
    for shape, inputs in shapes:
        weights.append(xp.asarray(rng.normal(0, (2 / inputs) ** 0.5, shape), "f4"))
        weights.append(xp.zeros(shape[-1], "f4"))
    return weights


def train(x, labels, epochs, rng, batch=64, rate=2e-3):
    """The trained weights and the loss of every step."""
    weights = start(rng)
    means = [xp.zeros_like(w) for w in weights]
    squares = [xp.zeros_like(w) for w in weights]
    losses = []
    for epoch in track(range(epochs), "training"):
        order = rng.permutation(len(x))
        for at in range(0, len(x) - batch + 1, batch):
            chosen = xp.asarray(order[at : at + batch])
            scores, kept = forward(weights, x[chosen])
            loss, gradients = backward(weights, kept, scores, labels[chosen])
            losses.append(float(loss))
            step = rate * 0.5 * (1 + xp.cos(xp.pi * epoch / epochs))
            for w, m, s, g in zip(weights, means, squares, gradients, strict=True):
                m += 0.1 * (g - m)
                s += 0.01 * (g * g - s)
                t = len(losses)
                w -= step * (m / (1 - 0.9**t)) / (xp.sqrt(s / (1 - 0.99**t)) + 1e-7)
    return weights, losses


def plot(losses, kernels, path):
    """The loss, and the filters of the first layer."""
    figure = pyplot.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    axes = left.subplots()
    axes.semilogy(losses, linewidth=0.7)
    axes.set(xlabel="step", ylabel="cross entropy")
    for i, axes in enumerate(right.subplots(4, 4).flat):
        axes.imshow(kernels[:, :, 0, i], cmap="gray")
        axes.axis("off")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(epochs=25, path="cnn_digits.png"):
    """The share of test images that are named right."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype("f4")
    x, x_test, labels, labels_test = train_test_split(
        images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    x, x_test, labels, labels_test = map(xp.asarray, (x, x_test, labels, labels_test))
    import numpy

    weights, losses = train(x, labels, epochs, numpy.random.default_rng(0))
    scores, _ = forward(weights, x_test)
    accuracy = float((scores.argmax(1) == labels_test).mean())
    kernels = weights[0].get() if hasattr(weights[0], "get") else weights[0]
    plot(losses, kernels, path)
    print(f"{accuracy:.1%} of {len(x_test)} test images right; {Path(path).resolve()}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--plot", default="cnn_digits.png")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.plot)
