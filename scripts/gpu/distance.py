"""Two files of logits against each other."""

import numpy as np


def read(path, n_tokens):
    """[n_tokens, n_vocab] of little-endian float32."""
    return np.fromfile(path, "<f4").reshape(n_tokens, -1)


def compare(ours, other):
    """Relative distance, largest difference, mean KL divergence in nats and the share of
    positions with the same best token; `other` is the reference."""
    kl, same, square, norm, largest = 0.0, 0, 0.0, 0.0, 0.0
    for a, b in zip(ours, other):
        a, b = a.astype(np.float64), b.astype(np.float64)
        square += ((a - b) ** 2).sum()
        norm += (b**2).sum()
        largest = max(largest, np.abs(a - b).max())
        same += int(a.argmax() == b.argmax())
        log_p, log_q = b - log_sum(b), a - log_sum(a)
        kl += (np.exp(log_p) * (log_p - log_q)).sum()
    return {
        "relative L2": float(np.sqrt(square / norm)),
        "largest difference": float(largest),
        "mean KL": float(kl / len(ours)),
        "same best token": same / len(ours),
    }


def log_sum(values):
    top = values.max()
    return top + np.log(np.exp(values - top).sum())


def rows(table, what, ours, other, note=""):
    units = {"relative L2": "", "largest difference": "logits", "mean KL": "nats", "same best token": "share"}
    if not np.isfinite(ours).all():
        table.add(what, "FAILED", note="logits that are no numbers")
    for name, value in compare(ours, other).items():
        table.add(f"{what}: {name}", value, units[name], note)
