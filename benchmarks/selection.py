"""k-center greedy and BADGE against scikit-activeml, then alone on 100,000 and 1,000,000 rows.

    python benchmarks/selection.py [--repeats 3] [--scale 1.0] [--device cpu]

Rows are float16, like the hidden states of a run: fifty clusters of different widths. `--scale` reduces rows and picks.

`kcenter_ratio`: time of scikit-activeml's CoreSet divided by that of `k_center_greedy`, both from row 0, 10,000 × 1024
→ 1,000; the same cover radius (largest distance of a row to its nearest pick) is asserted. `badge_ratio`: time of
scikit-activeml's Badge divided by that of `gradient_seeding`. Both are the full BADGE, k-means++ seeding on
(p − onehot(argmax p)) ⊗ h from the largest gradient, for the same given probabilities of two classes, the number the
probe has (with more classes the other side is slower: it builds [rows, classes · width] in float64). It is asserted
that the first pick is the same and that the sums of squared distances to the picks agree within 5 % (both sample). The
two sides take turns; times are medians. scikit-activeml gets its rows as float64, to which it would convert them
otherwise.

`over_floor` is our k-center's time divided by the time to read the stored rows once per pick, as the plain algorithm
does, at the memory bandwidth measured in the same process. Ours reads them less often and is bound by a matrix product,
so `over_products` is its time divided by that of rows × picks × width multiplications at the measured matrix rate.
`rss_mb_100k` is the peak of a child process that does nothing else, with Python, NumPy and torch (for float16) in it.
The million rows are a memory map, whose pages count in `rss_mb_1m` and not in `anonymous_mb_1m`. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Waiting threads then do not take a core from working ones.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import NDArray

from ka2l.selection.kernels.k_center import k_center_greedy
from ka2l.selection.kernels.seeding import gradient_seeding

Array = NDArray[Any]
CLUSTERS, CLASSES = 50, 2
NOTE = "scikit-activeml is not installed"


def main(repeats: int, scale: float, device: str) -> None:
    """Compare with scikit-activeml, then run alone on large pools."""
    rows, picks, width = round(10_000 * scale), round(1_000 * scale), 1024
    result: dict[str, Any] = {
        "benchmark": "selection",
        "device": device,
        "rows": rows,
        "width": width,
        "picks": picks,
    }
    result |= {"classes": CLASSES, "repeats": repeats}
    result |= _compare(_states(rows, width), picks, repeats, device)
    with tempfile.TemporaryDirectory() as temporary:
        for name, many, wide in (("100k", 100_000, 1024), ("1m", 1_000_000, 256)):
            file = Path(temporary) / f"{name}.npy"
            _write(file, round(many * scale), wide)
            alone = _child(file, picks, device, mapped=name == "1m")
            print(f"{round(many * scale)} x {wide} -> {picks}: {alone}", flush=True)
            result |= {f"{key}_{name}": value for key, value in alone.items()}
            file.unlink()
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


def _compare(x: Array, picks: int, repeats: int, device: str) -> dict[str, Any]:
    p = np.random.default_rng(1).dirichlet(np.ones(CLASSES), len(x))
    coefficients = (p - np.eye(CLASSES)[p.argmax(1)]).astype(np.float32)
    contenders: dict[str, Callable[[int], Array]] = {
        "kcenter": lambda _seed: k_center_greedy(x, picks, 0, device=device),
        "badge": lambda seed: gradient_seeding(coefficients, x, picks, np.random.default_rng(seed), device=device),
    }
    others = _scikit_activeml(x.astype(np.float64), p, picks)
    for run in contenders.values():
        # The first call imports modules and touches its buffers for the first time.
        run(0)
    contenders |= others
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rates: list[float] = []
    picked: dict[str, Array] = {}
    for seed in range(repeats):
        for name, run in contenders.items():
            rates.append(_bandwidth(device))
            started = time.perf_counter()
            picked[name] = run(seed)
            times[name].append(time.perf_counter() - started)
            print(f"{name} {times[name][-1]:.3f} s", flush=True)
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    bandwidth, products = statistics.median(rates), _matrix_rate(device)
    result: dict[str, Any] = {f"seconds_{name}": value for name, value in seconds.items()}
    result |= {"kcenter_ratio": None, "badge_ratio": None}
    if others:
        for name in ("kcenter", "badge"):
            result[f"{name}_ratio"] = seconds[f"{name}_activeml"] / seconds[name]
        _same_quality(x, coefficients, picked)
    else:
        result["note"] = NOTE
    result["over_floor"] = seconds["kcenter"] / (x.nbytes * picks / bandwidth)
    result["over_products"] = seconds["kcenter"] / (2 * x.size * picks / products)
    return result | {"read_gb_per_s": bandwidth / 1e9, "products_gflops": products / 1e9}


def _scikit_activeml(x: Array, p: Array, picks: int) -> dict[str, Callable[[int], Array]]:
    """scikit-activeml's two strategies on the same rows; empty if the library is not installed."""
    try:
        from skactiveml.base import SkactivemlClassifier
        from skactiveml.pool import Badge, CoreSet
    except ImportError:
        return {}

    class Given(SkactivemlClassifier):
        """A classifier whose probabilities are given."""

        def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> "Given":  # noqa: ARG002, N803
            return self

        def predict_proba(self, X: Array) -> Array:  # noqa: ARG002, N803
            return p

    no_labels = np.full(len(x), np.nan)
    first_label = no_labels.copy()
    first_label[0] = 0
    return {
        "kcenter_activeml": lambda seed: np.append(
            0, CoreSet(random_state=seed).query(x, first_label, batch_size=picks - 1)
        ),
        "badge_activeml": lambda seed: np.array(
            Badge(random_state=seed).query(
                x, no_labels, Given(classes=list(range(CLASSES))), fit_clf=False, batch_size=picks
            )
        ),
    }


def _same_quality(x: Array, coefficients: Array, picked: dict[str, Array]) -> None:
    """Assert that both sides find equally good picks."""
    ones = np.ones((len(x), 1))
    ours, theirs = (np.sqrt(_nearest(ones, x, picked[name]).max()) for name in ("kcenter", "kcenter_activeml"))
    assert abs(ours - theirs) <= 1e-4 * theirs, f"cover radius {ours}, theirs {theirs}"
    assert picked["badge"][0] == picked["badge_activeml"][0], "the first picks differ"
    ours, theirs = (_nearest(coefficients, x, picked[name]).sum() for name in ("badge", "badge_activeml"))
    assert abs(ours - theirs) <= 0.05 * theirs, f"squared distances {ours}, theirs {theirs}"


def _nearest(coefficients: Array, x: Array, picked: Array) -> Array:
    """Squared distance of c ⊗ x to the nearest pick, [rows], in float64."""
    nearest = np.empty(len(x))
    of_picked, c = x[picked].astype(float), coefficients.astype(float)
    norms = (c**2).sum(1) * np.einsum("ij,ij->i", x, x, dtype=float)
    for start in range(0, len(x), 1000):
        some = slice(start, start + 1000)
        products = (x[some].astype(float) @ of_picked.T) * (c[some] @ c[picked].T)
        nearest[some] = (norms[some, None] + norms[picked] - 2 * products).min(1)
    return np.maximum(nearest, 0)


def _child(file: Path, picks: int, device: str, mapped: bool) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", str(file), str(picks), device, str(int(mapped))]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    values: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return values


def _alone(file: str, picks: str, device: str, mapped: str) -> None:
    """Run k-center in this process, which does nothing else, and print its time and memory."""
    x = np.load(file, mmap_mode="r" if int(mapped) else None)
    done, anonymous = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.02):
            anonymous[0] = max(anonymous[0], _status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    rows = k_center_greedy(x, int(picks), 0, device=device)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    assert len(set(rows.tolist())) == int(picks)
    print(json.dumps({"seconds": round(seconds, 3), "rss_mb": _status("VmHWM"), "anonymous_mb": anonymous[0]}))


def _status(field: str) -> float:
    """A field of /proc/self/status of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024, 1)


def _states(rows: int, width: int, seed: int = 0) -> NDArray[np.float16]:
    centers = np.random.default_rng(0).standard_normal((CLUSTERS, width), dtype=np.float32)
    rng = np.random.default_rng([1, seed])
    noise = rng.standard_normal((rows, width), dtype=np.float32) * np.geomspace(2, 0.1, width, dtype=np.float32)
    return (centers[rng.integers(0, CLUSTERS, rows)] + noise).astype(np.float16)


def _write(file: Path, rows: int, width: int) -> None:
    stored = np.lib.format.open_memmap(file, "w+", np.float16, (rows, width))
    for start in range(0, rows, 20_000):
        stored[start : start + 20_000] = _states(min(20_000, rows - start), width, start)
    stored.flush()


def _bandwidth(device: str) -> float:
    """Bytes per second when all cores read 256 MB once; best of five."""
    if device.startswith("cuda"):
        import torch

        moved = torch.ones(1 << 28, dtype=torch.float32, device=device)
        return moved.nbytes / _best(lambda: moved.sum().item())
    values = np.ones(1 << 26, dtype=np.float32)
    parts = np.array_split(values, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(len(parts)) as threads:
        return values.nbytes / _best(lambda: list(threads.map(np.max, parts)))


def _matrix_rate(device: str) -> float:
    """Floating-point operations per second of [4096, 1024] @ [1024, 256] in float32; best of five."""
    a, b = np.ones((4096, 1024), dtype=np.float32), np.ones((1024, 256), dtype=np.float32)
    if not device.startswith("cuda"):
        return 2 * a.size * 256 / _best(lambda: a @ b)
    import torch

    moved, other = (torch.from_numpy(m).to(device) for m in (a, b))
    return 20 * 2 * a.size * 256 / _best(lambda: [moved @ other for _ in range(20)][-1][0, 0].item())


def _best(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        _alone(*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
        parser.add_argument("--repeats", type=int, default=3)
        parser.add_argument("--scale", type=float, default=1.0)
        parser.add_argument("--device", default="cpu")
        main(**vars(parser.parse_args()))
