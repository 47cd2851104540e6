"""How often do intervals from few subjects hold the true value? Simulated studies, one line per number of subjects.

::

    OMP_NUM_THREADS=1 python benchmarks/interval_coverage.py --studies 1000

A subject has a mean error of its own, of population mean 1, and 5 to 29 frames around it (standard deviation 0.2). The
last column resamples frames instead of subjects. Some minutes.
"""

import argparse

import numpy as np

from posecore.evaluation.bootstrap import BootstrapSettings, bootstrap_by_subject

_SUBJECTS = (3, 5, 7, 10, 20, 40)
_RESAMPLES = {"expanded": 2000, "percentile": 400, "bca": 400}  # quantiles far out need more


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[:, 1:] / sums[:, :1]


def _own_errors(rng: np.random.Generator, population: str, subjects: int) -> np.ndarray:
    if population == "normal":
        return 1 + rng.normal(size=subjects)
    return np.exp(rng.normal(0, 0.5, subjects) - 0.5**2 / 2)


def coverage(population: str, subjects: int, studies: int) -> dict[str, float]:
    rng = np.random.default_rng(subjects)
    held = dict.fromkeys(("expanded", "percentile", "bca", "frames"), 0)
    for _ in range(studies):
        frames = rng.integers(5, 30, subjects)
        own = _own_errors(rng, population, subjects)
        errors = np.repeat(own, frames) + 0.2 * rng.normal(size=frames.sum())
        subject = np.repeat(np.arange(subjects), frames)
        by_subject = np.stack([frames, np.bincount(subject, errors)], axis=1).astype(float)
        by_frame = np.stack([np.ones(len(errors)), errors], axis=1)
        for name in held:
            sums, method = (by_frame, "percentile") if name == "frames" else (by_subject, name)
            settings = BootstrapSettings.model_validate({"method": method, "resamples": _RESAMPLES[method]})
            (estimate,) = bootstrap_by_subject(sums, _mean, settings)
            held[name] += estimate.low <= 1 <= estimate.high
    return {name: count / studies for name, count in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    studies = parser.parse_args().studies
    print(f"{'population':12}{'subjects':>9}{'expanded':>10}{'percentile':>12}{'bca':>7}{'frames':>8}")
    for population in ("normal", "log-normal"):
        for subjects in _SUBJECTS:
            held = coverage(population, subjects, studies)
            print(
                f"{population:12}{subjects:9}{held['expanded']:10.2f}{held['percentile']:12.2f}{held['bca']:7.2f}"
                f"{held['frames']:8.2f}"
            )


if __name__ == "__main__":
    main()
