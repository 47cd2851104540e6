"""The command line: thin wrappers, one module per group of commands, each with ``add(commands)``."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from posecore.cli.jobs import JOBS, run_job
from posecore.command_parser import CommandParser
from posecore.errors import PoseCoreError, status_of
from posecore.interruption import Interrupted, signals_raise
from posecore.system_errors import is_full, said_of_system

COMMANDS: dict[str, tuple[str, str]] = {
    "datasets": ("datasets", "what datasets there are, and what a download looks like"),
    "stages": ("stages", "what may happen to data on its way into shards"),
    "synth": ("synth", "render a synthetic dataset in the native format of a real one"),
    "synth-sheet": ("synth", "one JPEG that shows the synthetic bodies and their labels"),
    "audit": ("audit", "say what two ingested splits share; exit status 1 if anything"),
    "labels": ("labels", "proportions of a population, and labels that look wrong"),
    "models": ("models", "published models: what they are, how they were trained, other layouts"),
    "plan": ("plan", "memory and time of a training run, and what to change if it does not fit"),
    "calibrate": (
        "calibrate",
        "find out on a held-out split how far off a model's points are, and keep it with the model",
    ),
    "predict": ("predict", "find the keypoints in photos and videos; exit status 1 if any file could not be used"),
    "score": ("score", "score a file of results against published annotations"),
    "view": ("view", "browse a split, a run's predictions, or two models side by side, on a page of this machine"),
    "export": ("export", "write one head of a model as ONNX, or the model as safetensors"),
    "lineage": ("lineage", "what a model has seen, and which models have seen something"),
    "runs": ("runs", "which jobs were run, what became of each, and which model came out"),
    "compare": (
        "compare",
        "two registered versions side by side: settings, data, code, packages, figures and pictures, as a page",
    ),
    "rerun": (
        "rerun",
        "train a registered version again with its own code, configuration and data, and compare the weights",
    ),
    "withdraw": (
        "withdraw",
        "list everything that holds a person, picture or dataset or came from it; --apply takes it out",
    ),
    "certify": ("withdraw", "prove that a registered model has never seen a person, picture or dataset"),
    **{name: ("jobs", f"{told} (pipelines/{script}.py)") for name, (script, told) in JOBS.items()},
    "completion": ("completion", "print a shell's completion script"),
}
"""By command, in the order of the help: its module, which is imported when the command is called, and what it does."""
_DESCRIPTION = "Pose datasets, models and predictions; every command explains itself with --help."
_STATUSES = (
    "exit status: 0 done, 1 an error or a failed check, 2 wrong usage or a question about nothing that is recorded, "
    "130 and 143 ended by Ctrl-C or SIGTERM; all of them: docs/commands.md"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    Returns:
        0 done, 1 a deliberate error or a failed check, 2 bad usage or a question about something that is nowhere
        recorded, 128 and the signal's number if one ended it.
    """
    parser = CommandParser(prog="posecore", description=_DESCRIPTION, epilog=_STATUSES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--"]:  # argparse would take it for the name of a command
        del given[0]
    called = next((argument for argument in given if not argument.startswith("-")), None)
    if called in JOBS and called == given[0]:
        return run_job(called, given[1:])
    if called in COMMANDS:
        import_module(f"posecore.cli.{COMMANDS[called][0]}").add(commands)
    else:
        for name, (_, told) in COMMANDS.items():
            commands.add_parser(name, help=told)
    options, further = parser.parse_known_args(given)
    if further:
        parser.refuse(further, given)
    try:
        with signals_raise():
            status = int(options.run(options))
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # whoever read the output has seen enough, as ``head`` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which is flushed when Python ends
        return 128 + signal.SIGPIPE
    except Interrupted as stop:
        print(f"{stop}.", file=sys.stderr)
        return stop.status
    except Exception as error:
        sentence = _one_sentence(error, getattr(options, "out", None))
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        return status_of(error)


def _one_sentence(error: Exception, written: str | None) -> str | None:
    """What stopped a command, for a person; None for an error that only its stack of calls explains."""
    if isinstance(error, PoseCoreError):
        return str(error)
    if is_full(error):
        return said_of_system(OSError(errno.ENOSPC, ""), written)
    if "mlflow" in sys.modules:  # whose import takes a second, and which is no part of the core
        from posecore.lineage.store.outage import told

        if (sentence := told(error)) is not None:
            return sentence
    return said_of_system(error, written) if isinstance(error, OSError) else None


def build_parser() -> CommandParser:
    """The parser of all commands with all their options."""
    parser = CommandParser(prog="posecore", description=_DESCRIPTION, epilog=_STATUSES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in dict.fromkeys(module for module, _ in COMMANDS.values()):
        import_module(f"posecore.cli.{module}").add(commands)
    known = {choice.dest for choice in commands._choices_actions}
    told = [(name, told) for name, (_, told) in COMMANDS.items() if name not in known]
    commands._choices_actions += [commands._ChoicesPseudoAction(name, [], text) for name, text in told]
    return parser
