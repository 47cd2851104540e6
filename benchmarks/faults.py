"""The campaign of faults: nothing comes out wrong in silence, hangs, or ends in a stack of calls.

Inputs of every format are damaged thousands of times (``faults_inputs.py``). Whole jobs on Ray lose a process, the disk
or the tracking server (``faults_losses.py``), or are submitted again after what they left was damaged
(``faults_states.py``). Counted per class: silently wrong, hang, raw traceback, refused well, harmless. The status is 1
if anything falls into the first three.

    python benchmarks/faults.py --count 10000
    python benchmarks/faults.py --count 0 --jobs --outage-s 300     # needs root, for small file systems of its own
"""

import argparse
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.faults_inputs import VERDICTS, campaign, subjects
from benchmarks.faults_jobs import Outcome, run_jobs
from benchmarks.faults_losses import losses
from benchmarks.faults_states import states


def table(rows: dict[str, dict[str, int]]) -> str:
    """Counts per subject as Markdown, with a row of sums."""
    sums = {verdict: sum(counts[verdict] for counts in rows.values()) for verdict in VERDICTS}
    lines = [f"| damaged | {' | '.join(VERDICTS)} |", "|---" * (1 + len(VERDICTS)) + "|"]
    for name, counts in {**rows, "all": sums}.items():
        lines.append(f"| {name} | " + " | ".join(f"{counts[verdict]:,}" for verdict in VERDICTS) + " |")
    return "\n".join(lines)


def _folder(named: Path | None) -> AbstractContextManager[str | Path]:
    return tempfile.TemporaryDirectory(prefix="faults-") if named is None else nullcontext(named)


def tell(outcome: Outcome) -> None:
    """Prints how a case ended, as a row of Markdown."""
    print(f"| {outcome.case} | {outcome.verdict} | {outcome.seconds:.1f} | {outcome.said} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="damaged inputs, over all formats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="subjects and cases whose name holds this, or this, with commas")
    parser.add_argument("--jobs", action="store_true", help="whole jobs, too")
    parser.add_argument("--outage-s", type=float, default=60.0, help="how long the tracking server is away")
    parser.add_argument(
        "--folder", type=Path, help="where things are written, to stay; used again, the job left alone is not repeated"
    )
    options = parser.parse_args()
    wrong = 0

    def chosen(name: str) -> bool:
        return any(word in name for word in options.only.split(","))

    with _folder(options.folder) as folder:
        if options.count:
            made = {n: s for n, s in subjects(Path(folder) / "inputs").items() if chosen(n)}
            rows, each = {}, -(-options.count // len(made))
            for name, subject in made.items():
                began = time.perf_counter()
                tally = campaign(name, subject, each, options.seed)
                rows[name] = tally.counts
                print(f"{name:<32} {tally.counts}  {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
                for example in tally.examples[:5]:
                    print(f"    {example}", file=sys.stderr, flush=True)
                wrong += sum(tally.counts[verdict] for verdict in VERDICTS[2:])
            print(table(rows))
        if options.jobs:
            cases = {name: case for name, case in (losses(options.outage_s) | states()).items() if chosen(name)}
            outcomes = run_jobs(Path(folder) / "jobs", cases, tell)
            print(", ".join(f"{sum(o.verdict == verdict for o in outcomes)} {verdict}" for verdict in VERDICTS))
            wrong += sum(outcome.verdict in VERDICTS[2:] for outcome in outcomes)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
