"""What licences allow, by class of use; the one place that decides it, for gates, questions and model cards.

Five classes are told apart: ``commercial``, ``research``, ``clinical`` (on patients), ``biometric`` (to recognise
people) and ``derivative`` (to pass on what was made of it). A class that is neither allowed nor forbidden is not
allowed: whoever was told otherwise states it, with the source, in the alias's policy.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

UseClass: TypeAlias = Literal["commercial", "research", "clinical", "biometric", "derivative"]
USE_CLASSES: tuple[UseClass, ...] = get_args(UseClass)


@dataclass(frozen=True, slots=True)
class Terms:
    """A licence.

    Attributes:
        id: SPDX identifier, or a short own name.
        allows: classes it allows.
        forbids: classes it forbids; of the others it says nothing.
        source: where that is said.
    """

    id: str
    allows: frozenset[UseClass] = frozenset()
    forbids: frozenset[UseClass] = frozenset()
    source: str = "no terms of this name are known here"

    def verdict(self, use: UseClass) -> bool | None:
        """Whether a class of use is allowed; None where nothing is said."""
        return True if use in self.allows else False if use in self.forbids else None


def _terms(id: str, allows: str, forbids: str, source: str) -> Terms:
    def chosen(words: str) -> frozenset[UseClass]:
        return frozenset(use for use in USE_CLASSES if use in words.split())

    return Terms(id, chosen(allows), chosen(forbids), source)


_EVERYTHING = " ".join(USE_CLASSES)
_CC = "https://creativecommons.org/licenses/{}/{}/legalcode"
_CC_SOURCE = {
    "": "Sections 1-4: sharing and adapting, for any purpose",
    "-SA": "Sections 1-4: sharing and adapting, for any purpose; what is adapted comes under the same terms",
    "-ND": "Sections 1-4: sharing for any purpose, and nothing that is adapted",
    "-NC": "Sections 1-4: not primarily for commercial advantage; whether a clinic's use is that is not said",
    "-NC-SA": "as NC, and what is adapted comes under the same terms",
    "-NC-ND": "as NC, and nothing that is adapted is passed on",
}


def _creative_commons() -> Mapping[str, Terms]:
    found = {}
    for version in ("2.0", "2.5", "3.0", "4.0"):
        for kind, said in _CC_SOURCE.items():
            free = "research" if "NC" in kind else "commercial research clinical"
            allows = free if "ND" in kind else f"{free} derivative"
            forbids = " ".join(use for part, use in (("NC", "commercial"), ("ND", "derivative")) if part in kind)
            id = f"CC-BY{kind}-{version}"
            found[id] = _terms(id, allows, forbids, f"{_CC.format(f'by{kind.lower()}', version)}, {said}")
    return found


TERMS: Mapping[str, Terms] = {
    **_creative_commons(),
    **{
        terms.id: terms
        for terms in (
            _terms("CC0-1.0", _EVERYTHING, "", "https://creativecommons.org/publicdomain/zero/1.0/legalcode"),
            _terms("Apache-2.0", _EVERYTHING, "", "https://www.apache.org/licenses/LICENSE-2.0, Sections 2-4"),
            _terms("MIT", _EVERYTHING, "", "https://opensource.org/license/mit"),
            _terms("BSD-3-Clause", _EVERYTHING, "", "https://opensource.org/license/bsd-3-clause"),
            _terms("LGPL-3.0", _EVERYTHING, "", "https://www.gnu.org/licenses/lgpl-3.0.html, Sections 2-4"),
            _terms(
                "Apache-2.0 (non-commercial data)",
                "research derivative",
                "",
                "Apache-2.0 of the repository; the annotations they were trained on are for non-commercial use",
            ),
            _terms(
                "Sapiens2",
                "research derivative",
                "biometric",
                "Sapiens2 License: no biometric processing, no unlicensed medical practice; derivatives under the same "
                "agreement",
            ),
            _terms("US-Government-Work", "commercial research derivative", "", "17 U.S.C. 105; usa.gov/copyright"),
        )
    },
}
"""By id. Terms that are not listed allow what a dataset's definition or a policy states, and nothing else."""

_COCO = re.compile(r"^Attribution(?P<kind>(-NonCommercial)?(-ShareAlike|-NoDerivs)?) License$")
_SHORT = {"NonCommercial": "NC", "ShareAlike": "SA", "NoDerivs": "ND"}


def licence_ids(text: str) -> list[str]:
    """The ids in what a record says of licences, which may be joined: ``CC-BY-4.0, MINI-RGBD, MPII``.

    COCO's own names of its pictures' licences, all of version 2.0, become the usual ids.
    """
    parts = (part.strip() for part in re.split(r"[,;]", text))
    return list(dict.fromkeys(_usual(part) for part in parts if part))


def _usual(name: str) -> str:
    match = _COCO.match(name)
    if match is not None:
        kind = "".join(f"-{_SHORT[word]}" for word in match["kind"].split("-") if word)
        return f"CC-BY{kind}-2.0"
    return {"United States Government Work": "US-Government-Work"}.get(name, name)


def terms_of(text: str) -> list[Terms]:
    """The terms of every licence in what a record says; unknown ones allow nothing."""
    return [TERMS.get(id, Terms(id)) for id in licence_ids(text)] or [Terms("not stated")]
