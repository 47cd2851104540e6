"""What the record has of a trial: a run of its own with parameters, curve, and what was found at every rung."""

from collections.abc import Mapping
from dataclasses import dataclass

from posecore.lineage.store.parameters import flat_parameters
from posecore.lineage.store.tracking import RunLog
from posecore.workflows.budget.candidates import Fit
from posecore.workflows.budget.choice import gain
from posecore.workflows.budget.trial import Score


@dataclass(frozen=True)
class TrialRuns:
    """The trials in the record: a run each, nested in the search's.

    Attributes:
        search: the search's run.
        fits: the candidates by name.
    """

    search: RunLog
    fits: Mapping[str, Fit]

    def log(self, score: Score, parent: Score) -> None:
        """Records a trial at a rung, unless that was done before."""
        found = self.search.tracking.ask(
            lambda client: client.search_runs(
                [self.search.tracking.experiment_id],
                f"tags.`mlflow.parentRunId` = '{self.search.run_id}' AND tags.`posecore.trial` = '{score.name}'",
                max_results=1,
            )
        )
        if found:
            run = RunLog(self.search.tracking, found[0].info.run_id)
            if int(found[0].data.tags.get("posecore.rung", "0")) >= score.step:
                return
        else:
            tags = {"posecore.kind": "trial", "posecore.trial": score.name}
            run = self.search.tracking.start_run(f"trial:{score.name}", tags, self.search.run_id)
            fit = self.fits[score.name]
            run.log_params(flat_parameters(fit.candidate.model_dump(mode="json")))
            run.log_params({"lr": fit.config.training.optimizer.lr, "replay_share": fit.config.replay_share})
        for step, metrics in score.curve:
            run.log_metrics(metrics, step)
        change = gain(score, parent)
        said = {
            "validation_error": score.error,
            "validation_change": change.value,
            "validation_change_low": change.low,
            "validation_change_high": change.high,
            "forgetting": score.forgetting(parent),
            **{f"{name}/error_change": lost.value for name, lost in score.forgotten(parent).items()},
            "train_s": score.train_s,
            "judge_s": score.judge_s,
            "trained_parameters": float(score.trained),
        }
        run.log_metrics({name: value for name, value in said.items() if value == value}, score.step)
        run.set_tags({"posecore.rung": str(score.step)})
        run.end()
