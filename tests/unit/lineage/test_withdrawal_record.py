"""Records of withdrawals are a chain: whoever alters, removes or forges one breaks it."""

from pathlib import Path

import pytest

from posecore.errors import ConfigError
from posecore.lineage.withdrawal.record import WithdrawalRecord, check_chain, read_key, sealed

KEY = b"sixteen bytes of"


def chain(key: bytes | None = KEY) -> list[WithdrawalRecord]:
    records: list[WithdrawalRecord] = []
    for number in range(3):
        previous = records[-1].digest if records else ""
        records.append(WithdrawalRecord(str(number), sealed({"subject": f"s{number}", "pictures": []}, previous, key)))
    return records


def test_a_whole_chain_has_no_problems() -> None:
    assert check_chain(chain(), KEY) == []
    assert check_chain(chain(None)) == []
    assert check_chain([]) == []


def test_an_altered_a_missing_and_a_forged_record_are_found() -> None:
    first, second, third = chain()
    altered = WithdrawalRecord("1", {**second.content, "subject": "somebody else"})
    assert check_chain([first, altered, third]) == ["the record of withdrawal 1 is not what was written."]
    assert check_chain([first, third]) == ["before withdrawal 2 a record is missing or was replaced."]
    forged = WithdrawalRecord("1", sealed({"subject": "other", "pictures": []}, first.digest, b"another key that is"))
    assert check_chain([first, forged, third], KEY) == [
        "withdrawal 1 is not signed with this key.",
        "before withdrawal 2 a record is missing or was replaced.",
    ]
    assert check_chain(chain(None), KEY)[0] == "withdrawal 0 is not signed with this key."


def test_a_key_must_be_there_and_long_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key cannot be read"):
        read_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="a key of 5 bytes can be guessed"):
        read_key(tmp_path / "key")
    (tmp_path / "key").write_bytes(KEY)
    assert read_key(tmp_path / "key") == KEY
