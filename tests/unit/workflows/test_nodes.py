"""What is made of the answers of a cluster's nodes, and what a node finds out about itself."""

from pathlib import Path

import pytest

from posecore.errors import PreflightError
from posecore.storage import as_path
from posecore.workflows.nodes import (
    Needs,
    NodeReport,
    faults_here,
    listener,
    mark,
    refuse_faults,
    unreached,
    versions,
)
from tests.support.ports import free_port

DRIVER = {"Python": "3.11.7", "torch": "2.13.0"}


def report(name: str = "a", **changes) -> NodeReport:
    return NodeReport(**{"name": name, "versions": DRIVER, **changes})


def refusal(*reports: NodeReport) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        refuse_faults(reports, DRIVER)
    return str(caught.value).splitlines()


def test_nodes_without_a_fault_are_taken() -> None:
    refuse_faults([report("a"), report("b", clock_s=-4.9)], DRIVER)


def test_each_fault_is_a_sentence_with_the_nodes_that_have_it() -> None:
    other = {"Python": "3.11.7", "torch": "2.12.0"}
    said = refusal(report("a"), *(report(name, versions=other) for name in "bcde"), report("f", clock_s=63.2))
    assert said == [
        "node b, c, d and 1 more: torch is 2.12.0 there and 2.13.0 where the job was submitted; give all nodes the "
        "same image.",
        "node f: its clock is 63 s ahead of that of the node the job was submitted to; have both keep time by the same "
        "server (NTP).",
    ]
    assert "5 s behind" in refusal(report(clock_s=-5.1))[0]


def test_what_a_node_says_of_itself_and_of_others_is_passed_on() -> None:
    said = refusal(report("a", faults=["run_folder s3://x cannot be written."], unreached={"b": "timed out"}))
    assert said[0] == "node a: run_folder s3://x cannot be written."
    assert said[1].startswith("node a: no connection to node b (timed out); open the ports")


def test_this_process_knows_its_versions() -> None:
    found = versions()
    assert {"Python", "torch", "ray", "deepspeed", "posecore's code"} == set(found)
    assert "none" not in found.values()


def needs(tmp_path: Path, **changes: str) -> Needs:
    usual = {"run_folder": str(tmp_path / "run"), "tracking": f"sqlite:///{tmp_path}/mlflow.db"}
    return Needs(**(usual | changes))


def test_a_folder_that_only_the_driver_has_is_no_run_folder(tmp_path: Path) -> None:
    marked = mark(tmp_path / "run")
    assert faults_here(needs(tmp_path), marked) == []
    (tmp_path / "run" / marked).unlink()
    (fault,) = faults_here(needs(tmp_path), marked)
    assert "is not there, or is another than where the job was submitted" in fault


def test_a_url_is_not_marked_but_written_to(tmp_path: Path) -> None:
    assert mark(as_path("memory://run")) == ""
    assert faults_here(needs(tmp_path, run_folder="memory://run"), "") == []


def test_a_server_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    marked = mark(tmp_path / "run")
    (fault,) = faults_here(needs(tmp_path, tracking=f"http://127.0.0.1:{free_port()}"), marked)
    assert "does not answer" in fault


def test_connections_are_opened_from_the_own_address_to_all_others() -> None:
    address = ("127.0.0.1", free_port())
    with listener("127.0.0.1") as open_:
        assert unreached("127.0.0.2", {"b": open_.getsockname(), "c": address}) == {
            "c": "from 127.0.0.2 to 127.0.0.1: Connection refused"
        }
