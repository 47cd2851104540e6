"""The competition: trials climb the rungs within the budget, and one is chosen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.labels.dynamics import LEAST_PASSES
from posecore.storage import AnyPath, remove_folder, write_atomically
from posecore.training.checkpoint_store import CheckpointStore
from posecore.workflows.adaptation.job import AdaptationJob
from posecore.workflows.adaptation.worker import AdaptationWorker
from posecore.workflows.budget.candidates import Fit, as_run_file, as_trial
from posecore.workflows.budget.choice import Choice, choose, gain, ranked
from posecore.workflows.budget.halving import Cost, Halving, halving_of_steps, halving_of_time
from posecore.workflows.budget.record import TrialRuns
from posecore.workflows.budget.result import Result
from posecore.workflows.budget.settings import SearchConfig
from posecore.workflows.budget.trial import MEASURED, PARENT, Failure, FirstSteps, JudgedOn, Pace, Score, Trials
from posecore.workflows.machines import RUN_NAME, ActorSettings, Machines, Race, as_given
from posecore.workflows.periodic_evaluation import LabelRecording
from posecore.workflows.run_folder import LABEL_LOSSES

_LONG = 10_000
"""Steps of the run whose first ones are measured; how many there would be is not known yet."""
WorkerOf = Callable[[AdaptationJob], AdaptationWorker]
"""What trains a trial, from the run file that it stands for."""


@dataclass(kw_only=True)
class Competition:
    """A search that is on.

    Attributes:
        machines: do the trials.
        config: of the search, with nothing left to its parent.
        settings: of it.
        fits: the candidates that fit.
        worker_of: what trains one.
        judged_on: what decides.
        recording: of the losses that the label check of the child looks at, those of its first steps among them; None
            where there is no such check.
        parent: folder of the model that stands for the parent.
        folder: of the search; a folder per trial lies in it.
        runs: take the trials into the record.
        note: says a line to whoever waits.
        scores: of the trials so far.
        paces: of their first steps, for a budget in time.
        stopped: why it ended early; "" if it did not.
        failed: trials that an error ended, and what it was.
    """

    machines: Machines
    config: AdaptationJob
    settings: SearchConfig
    fits: Sequence[Fit]
    worker_of: WorkerOf
    judged_on: JudgedOn
    recording: LabelRecording | None
    parent: str
    folder: AnyPath
    runs: TrialRuns
    note: Callable[[str], None]
    scores: list[Score] = field(default_factory=list)
    paces: dict[str, Pace] = field(default_factory=dict)
    stopped: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, fits: Sequence[Fit]) -> Result:
        """Has the candidates that fit compete, and chooses."""
        asynchronous = self.settings.scheduler == "asha"
        with nullcontext() if asynchronous else self.machines.kept():  # what is kept, Tune would wait for
            (parent,) = self._do(Trials(**self._what({})), [(PARENT, 0)])
            assert isinstance(parent, Score)
            halving = self._halving(parent)
            compete = self._race if asynchronous else self._climb
            reached = compete(Trials(**self._what(self._workers(halving))), halving, parent) if halving.rungs else []
        left = self._refuse_none_left(halving.names)
        comparable = [score for score in reached if score.name in left]
        choice = choose(comparable, halving.names) if comparable else Choice(left[0])
        begun = self._store(choice.name).newest() if choice.step else None
        return Result(
            settings=self.settings,
            fits=fits,
            halving=halving,
            parent=parent,
            scores=[score for score in self.scores if score.name in left],
            failed=self.failed,
            stopped=self.stopped,
            choice=choice,
            begun=begun,
            final=self._final(halving, choice, begun, parent),
            seconds=self._spent(parent),
        )

    def tidy(self, begun: AnyPath | None) -> None:
        """Deletes what trials learned of anybody, but for the checkpoint that the child goes on from."""
        for name in (fit.candidate.name for fit in self.fits):
            if begun is None or begun.parent != self._store(name).folder:
                remove_folder(self.folder / name)
        for path in [] if begun is None else list(begun.parent.iterdir()):
            if path != begun:
                remove_folder(path)

    def _store(self, name: str) -> CheckpointStore:
        return CheckpointStore(self.folder / name / RUN_NAME)

    def _climb(self, trials: Trials, halving: Halving, parent: Score) -> list[Score]:
        """Rung by rung; the scores of those rungs that all trials reached, or of a first one that not all did."""
        names, before = list(halving.names), 0
        rung: list[Score] = []
        for count, step in zip(halving.counts, halving.rungs, strict=True):
            reached: list[Score] = []
            names = names[:count]
            for start in range(0, len(names), self.settings.at_once):
                some = names[start : start + self.settings.at_once]
                if not self._may(some, step, before, halving, parent):
                    self.stopped = (
                        f"the budget of {self.settings.budget} would have been overrun at {counted(step, 'step')}; "
                        f"{len(reached)} of {counted(count, 'trial')} got there"
                    )
                    self.note(f"search    stopped: {self.stopped}")
                    return rung or reached
                for score in self._do(trials, [(name, step) for name in some]):
                    if isinstance(score, Failure):
                        self._drop(score.name, score.told)
                        continue
                    self._take(score, parent)
                    reached.append(score)
            names = [score.name for score in ranked(reached, halving.names)] if reached else []
            rung, before = [*rung, *reached], step
        return rung

    def _race(self, trials: Trials, halving: Halving, parent: Score) -> list[Score]:
        """All at once by Ray Tune, which lets trials go on without waiting for the others."""
        seconds = self.settings.seconds
        left = None
        if seconds is not None:
            slowest = max(pace.step_s for pace in self.paces.values())
            left = max(
                1.0, seconds - self._spent(parent) - slowest * (max(halving.lengths.values()) - halving.rungs[-1])
            )
        names = list(halving.names)
        race = Race(
            names=tuple(names),
            rungs=halving.rungs,
            eta=self.settings.eta,
            most_steps=halving.search_steps,
            seconds=left,
            folder=str(self.folder),
        )
        failed = self.machines.race(partial(as_given, trials), race, self._process)
        for name, told in failed.items():
            self._drop(name, told)
        for step in halving.rungs:
            for score in (self._read(name, step) for name in names):
                if score is not None:
                    self._take(score, parent)
        never = len(names) - len({score.name for score in self.scores} | failed.keys())
        if never:
            self.stopped = (
                f"the budget of {self.settings.budget} ended before {never} of {counted(len(names), 'trial')} had begun"
            )
            self.note(f"search    stopped: {self.stopped}")
        return self.scores

    def _read(self, name: str, step: int) -> Score | None:
        path = self.folder / name / f"score_{step}.json"
        return Score.model_validate_json(path.read_bytes()) if path.exists() else None

    def _drop(self, name: str, told: str) -> None:
        self.failed[name] = told
        self.note(f"search    {name:<20} failed, and the others go on: {told}")

    def _refuse_none_left(self, names: Sequence[str]) -> list[str]:
        """Those that have not failed."""
        left = [name for name in names if name not in self.failed]
        if not left:
            what = "; ".join(f"{name}: {told}" for name, told in self.failed.items())
            raise ConfigError(f"search.candidates: none could be judged at the rung that decides. {what}")
        return left

    def _take(self, score: Score, parent: Score) -> None:
        self.scores.append(score)
        self.runs.log(score, parent)
        change = gain(score, parent)
        self.note(
            f"search    {score.name:<20} {score.step:>6} steps: error {100 * score.error:.2f} % of the box "
            f"({100 * change.value:+.2f}), forgetting {100 * score.forgetting(parent):.2f}"
        )

    def _halving(self, parent: Score) -> Halving:
        """The rungs: at once, or from measured first steps."""
        if (at_once := rungs_in_steps(self.settings, self.fits)) is not None:
            return at_once
        seconds = self.settings.seconds
        assert seconds is not None
        path = self.folder / "halving.json"
        first = FirstSteps(workers=self._workers(None), folder=str(self.folder))
        for _, pace in self.machines.work(partial(as_given, first), list(first.workers), self._process):
            if isinstance(pace, Failure):
                self._drop(pace.name, pace.told)
            else:
                self.paces[pace.name] = pace
        self._refuse_none_left([fit.candidate.name for fit in self.fits])
        if path.exists():
            return Halving.model_validate_json(path.read_bytes())
        paces = [self.paces[fit.candidate.name] for fit in self.fits if fit.candidate.name in self.paces]
        costs = {pace.name: Cost(pace.step_s, pace.start_s, parent.judge_s) for pace in paces}
        halving = halving_of_time(costs, self.settings, seconds, self._spent(parent))
        write_atomically(path, halving.model_dump_json().encode())
        return halving

    def _workers(self, halving: Halving | None) -> dict[str, AdaptationWorker]:
        """What trains each trial, on the schedule of the run that it would be; None for first steps to measure."""
        workers = {}
        for fit in self.fits:
            name = fit.candidate.name
            if halving is not None and name not in halving.names:
                continue
            own = as_run_file(self.config, fit.candidate, _LONG if halving is None else halving.lengths[name])
            worker = self.worker_of(as_trial(own))
            changes: dict[str, Any] = {"evaluate_every": 0, "best": None, "progress": False}
            folder, recording = self.folder / name, None
            if halving is None:
                folder /= MEASURED
            else:
                changes["log_every"] = max(1, halving.rungs[0] // 4)
            if self.recording is not None:
                recording = replace(self.recording, folder=str(folder / LABEL_LOSSES))
                changes["evaluate_every"] = worker.training.evaluate_every
            loop = worker.training.model_copy(update=changes)
            workers[name] = replace(worker, training=loop, evaluate=recording, quiet=True)
        return workers

    def _do(self, trials: Trials, works: Sequence[tuple[str, int]]) -> Iterator[Score | Failure]:
        done = dict(self.machines.work(partial(as_given, trials), works, self._process))
        return iter([done[place] for place in sorted(done)])

    @property
    def _process(self) -> ActorSettings:
        cluster = self.config.cluster
        return ActorSettings(
            actors=self.settings.at_once, cpus_per_actor=cluster.cpus_per_worker, gpus_per_actor=cluster.gpus_per_worker
        )

    def _what(self, workers: Mapping[str, AdaptationWorker]) -> dict[str, Any]:
        return {
            "workers": workers, "folder": str(self.folder), "judged_on": self.judged_on, "parent": self.parent
        }  # fmt: skip

    def _may(self, names: Sequence[str], step: int, before: int, halving: Halving, parent: Score) -> bool:
        """Whether some trials may go on to a rung, and any of them to its end after it, within a budget in time."""
        seconds = self.settings.seconds
        if seconds is None:
            return True
        paces = [self.paces[name] for name in names]
        piece = max(pace.start_s + (step - before) * pace.step_s for pace in paces) + parent.judge_s
        after = max(pace.start_s + (halving.lengths[pace.name] - step) * pace.step_s for pace in paces)
        return self._spent(parent) + piece + after <= seconds

    def _spent(self, parent: Score) -> float:
        trials = sum(score.train_s + score.judge_s for score in self.scores) / self.settings.at_once
        return parent.judge_s + sum(pace.spent_s for pace in self.paces.values()) / self.settings.at_once + trials

    def _final(self, halving: Halving, choice: Choice, begun: AnyPath | None, parent: Score) -> int:
        """Steps of the whole run: those that its trial's schedule was made for, or of an untried one what is left."""
        seconds, planned = self.settings.seconds, halving.lengths[choice.name]
        if begun is not None or seconds is None:
            return planned
        pace, least = self.paces[choice.name], 1 if self.config.label_check is None else LEAST_PASSES
        return min(planned, max(int((seconds - self._spent(parent) - pace.start_s) / pace.step_s), least))


def rungs_in_steps(settings: SearchConfig, fits: Sequence[Fit]) -> Halving | None:
    """The rungs of a budget in steps; None for one in time, whose steps are measured first.

    Raises:
        ConfigError: the budget is too small.
    """
    if settings.steps is None:
        return None
    return halving_of_steps([fit.candidate.name for fit in fits if fit.fits], settings, settings.steps)
