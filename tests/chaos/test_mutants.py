"""Mutants: each is still a change to the product as it is, some scenario is there for it, and what counts as a kill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from chaos.cli.main import main
from chaos.errors import HarnessError
from chaos.mutants import MUTANTS, apply_mutant, find_mutant
from chaos.mutants.hunt import CALM, Attempt, Hunt, judged, killers_of
from chaos.mutants.mutant import PRODUCT, Edit, Mutant, edited
from chaos.result import PROMISES, Result
from chaos.scenario.loading import find_scenario, load_all
from chaos.verdict import Counts, Invariant, Judgement, Offender, Verdict
from queue_trio.errors import ConfigError

if TYPE_CHECKING:
    from chaos.scenario.model import Scenario

ROOT = Path(__file__).parents[2]
CATALOGUE = {
    "two-step-reap",
    "unfenced-settle",
    "error-is-death",
    "dropped-record",
    "no-renewal-in-drain",
    "claim-not-recovered",
    "new-id-on-retry",
    "reused-connection",
    "sweep-ignores-outage",
    "uncapped-backoff",
}

# --- the mutants -----------------------------------------------------------------------------------------------------


def test_every_mutant_of_the_catalogue_is_there_and_no_name_is_there_twice() -> None:
    assert set(MUTANTS) >= CATALOGUE
    assert all(name == mutant.name for name, mutant in MUTANTS.items())
    assert all(mutant.promise in {"", *PROMISES} for mutant in MUTANTS.values())
    assert all(mutant.signs and mutant.edits for mutant in MUTANTS.values())


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_changes_the_product_as_it_is(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    before = {file: (PRODUCT / file).read_text("utf-8") for file in edited(mutant)}

    home = apply_mutant(name, tmp_path)

    copies = {path.relative_to(home / "queue_trio") for path in home.rglob("*.py")}
    assert copies == {path.relative_to(PRODUCT) for path in PRODUCT.rglob("*.py")}
    for file, text in before.items():
        assert (home / "queue_trio" / file).read_text("utf-8") != text
        assert (PRODUCT / file).read_text("utf-8") == text


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_has_a_scenario_that_should_kill_it(name: str) -> None:
    assert killers_of(MUTANTS[name], load_all())


def test_no_scenario_should_kill_a_mutant_that_is_not_there() -> None:
    assert {name for scenario in load_all() for name in scenario.kills} <= set(MUTANTS)


def test_the_control_has_no_fault_and_kills_nobody() -> None:
    calm = find_scenario(CALM)
    assert not calm.faults
    assert not calm.kills
    assert calm.expect.verdict is Verdict.PASS


def test_the_product_knows_nothing_of_mutants_and_the_wheel_has_none() -> None:
    sources = [path for path in PRODUCT.rglob("*") if path.suffix in {".py", ".lua"}]
    assert sources
    assert not [path for path in sources if "mutant" in path.read_text("utf-8")]
    assert 'exclude = ["/chaos/mutants"]' in (ROOT / "pyproject.toml").read_text("utf-8")


# --- edits that do not fit -------------------------------------------------------------------------------------------


def a_mutant(*edits: Edit) -> Mutant:
    return Mutant(name="odd", broken="it is odd", promise="N", signs=("N: ",), edits=edits)


@pytest.fixture
def product(tmp_path: Path) -> Path:
    (tmp_path / "waits.py").write_text("cap = 2\nwait = min(cap, 3)\nagain = min(cap, 3)\n")
    return tmp_path


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (
            Edit("waits.py", "cap = 9\n", "cap = 8\n"),
            r"waits.py does not have once .* but 0 times: 'cap = 9'",
        ),
        (Edit("waits.py", "min(cap, 3)", "3"), r"waits.py does not have once .* but 2 times"),
        (Edit("gone.py", "cap = 2\n", ""), r"there is no file queue_trio/gone.py any more"),
        (Edit("waits.py", "cap = 2\n", "cap = (\n"), r"waits.py:\d is not Python"),
    ],
)
def test_an_edit_that_does_not_fit_the_product_any_more_is_refused(
    product: Path, edit: Edit, why: str
) -> None:
    with pytest.raises(HarnessError, match=f"^mutant odd: .*{why}"):
        edited(a_mutant(edit), product)


def test_edits_of_one_file_add_up(product: Path) -> None:
    both = a_mutant(Edit("waits.py", "cap = 2", "cap = 4"), Edit("waits.py", "wait =", "first ="))
    assert edited(both, product) == {"waits.py": "cap = 4\nfirst = min(cap, 3)\nagain = min(cap, 3)\n"}


def test_a_name_that_is_not_there_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ConfigError, match=r"dropped-records: there is no such mutant: did you mean dropped-record\?"
    ):
        find_mutant("dropped-records")
    with pytest.raises(ConfigError, match="there are unfenced-settle, "):
        find_mutant("xyzzy")


# --- what a kill is --------------------------------------------------------------------------------------------------


def a_result(verdict: Verdict, *reasons: str, lost: int = 0) -> Result:
    offenders = tuple(
        Offender(f"job-{number}", "acknowledged, and in the end nowhere") for number in range(lost)
    )
    promises = (Invariant("N", "nothing lost", held=not lost, count=lost, offenders=offenders),)
    return Result(
        scenario="bad-record",
        title="Records",
        promises=("N",),
        seed=0,
        command="again",
        judgement=Judgement(verdict, reasons, Counts(), promises, ()),
        started_s=10.0,
        ended_s=12.5,
    )


DROPPED = MUTANTS["dropped-record"]
BAD_RECORD = find_scenario("bad-record")


def test_a_failure_that_the_bug_explains_is_a_kill() -> None:
    lost = "N: job-0: acknowledged, and in the end nowhere"
    attempt = judged(DROPPED, BAD_RECORD, a_result(Verdict.FAIL, "C: a thread is left", lost, lost=5))
    assert attempt.found
    assert attempt.reason == "N: acknowledged, and in the end nowhere (and 4 more)"
    assert (attempt.scenario, attempt.seconds) == ("bad-record", 2.5)


def test_a_failure_for_another_reason_is_none() -> None:
    attempt = judged(
        DROPPED, BAD_RECORD, a_result(Verdict.FAIL, "proxy_down noticed: never, allowed are 1 s")
    )
    assert not attempt.found
    assert attempt.reason == "proxy_down noticed: never, allowed are 1 s"


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.INVALID, Verdict.PASS])
def test_only_fail_kills(verdict: Verdict) -> None:
    lost = "N: job-0: acknowledged, and in the end nowhere"
    assert not judged(DROPPED, BAD_RECORD, a_result(verdict, lost, lost=1)).found


def test_a_kill_counts_only_if_the_mutant_is_well_without_a_fault_and_the_scenario_without_the_mutant() -> (
    None
):
    kill = Attempt("bad-record", Verdict.FAIL, "N: lost", found=True, seconds=1.0)
    missed = Attempt("bad-record", Verdict.PASS, "", found=False, seconds=2.0)
    well = Attempt("calm", Verdict.PASS, "", found=False, seconds=4.0)
    sick = Attempt("calm", Verdict.FAIL, "N: lost", found=True, seconds=4.0)

    assert Hunt(DROPPED, 0, well, (missed, kill)).sound
    assert Hunt(DROPPED, 0, well, (missed, kill)).kill is kill
    assert Hunt(DROPPED, 0, well, (missed, kill), (missed,)).seconds == 9.0
    assert not Hunt(DROPPED, 0, well, (missed,)).sound
    assert not Hunt(DROPPED, 0, sick, (kill,)).sound
    assert not Hunt(DROPPED, 0, well, (kill,), (kill,)).sound


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_which_name_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutants", "unfenced"]) == 3
    assert "unfenced: there is no such mutant" in capsys.readouterr().err


def test_where_they_are_not_installed_the_command_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "chaos.mutants", None)
    assert main(["mutants"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "not installed" in line
    assert "source tree" in line


@pytest.mark.parametrize(("killed", "code"), [(True, 0), (False, 1)])
def test_the_command_tells_who_was_killed_by_whom_and_fails_if_one_lives(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
    code: int,
) -> None:
    well = Attempt("calm", Verdict.PASS, "", found=False, seconds=4.0)
    kill = Attempt("bad-record", Verdict.FAIL, "N: lost", found=True, seconds=1.0)
    missed = Attempt("bad-record", Verdict.ERROR, "no Redis", found=False, seconds=2.0)

    async def hunted(mutant: Mutant, scenarios: list[Scenario], *, seed: int, **how: Any) -> Hunt:
        assert [scenario.name for scenario in scenarios] == ["bad-record"]
        await trio.lowlevel.checkpoint()
        return Hunt(mutant, seed, well, (kill if killed else missed,))

    monkeypatch.setattr("chaos.mutants.hunt.hunt", hunted)
    file = tmp_path / "table.json"

    assert main(["mutants", "dropped-record", "--seed", "7", "--json", str(file)]) == code

    told = capsys.readouterr().out
    assert f"{int(killed)} of 1 killed" in told
    assert ("dropped-record lives" in told) is not killed
    table = msgspec.json.decode(file.read_bytes())
    assert table["killed"] == int(killed)
    (entry,) = table["mutants"]
    assert (entry["name"], entry["seed"], entry["survives_calm"]) == ("dropped-record", 7, True)
    assert entry["killed_by"] == ("bad-record" if killed else None)
