"""Work on Ray: the same results as on this machine's processes, and faults in one line."""

import hashlib
from pathlib import Path

import pytest

from tests.support.clones import ROOT, run
from tests.support.made_up import made_up_tweets
from tests.support.work import fail, kill_own_process, square
from tweets import cluster
from tweets.data import pieces
from tweets.errors import UserError

pytestmark = [pytest.mark.walk, pytest.mark.filterwarnings("ignore")]  # Ray's own


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.VARIABLE, cluster.LOCAL)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("count", [0, 1, 50])
def test_work_comes_back_in_its_order(local: None, count: int) -> None:
    assert list(pieces.in_order(square, iter(range(count)))) == [number**2 for number in range(count)]


def test_an_error_at_work_is_the_callers(local: None) -> None:
    with pytest.raises(UserError, match=r"^the third$"):
        list(pieces.in_order(fail, iter(range(20))))


def test_what_kills_each_process_is_given_up_in_one_line(local: None) -> None:
    with pytest.raises(UserError, match=r"TWEETS_CLUSTER = local: the work was lost: .*died"):
        list(pieces.in_order(kill_own_process, iter(range(20))))


@pytest.mark.parametrize("where", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto:x", "nowhere.invalid"])
def test_where_no_cluster_is_one_line_says_so(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv(cluster.VARIABLE, where)
    with pytest.raises(UserError, match=f"TWEETS_CLUSTER = {where}: no cluster there: .*; it needs local, or"):
        list(pieces.in_order(square, iter(range(3))))


def test_the_stages_write_the_same_bytes(workspace: Path) -> None:
    made_up_tweets(6000).to_csv(workspace / "tweets.csv", index=False)
    run(workspace, "python", "-m", "stages.fetch", PYTHONPATH=str(ROOT))
    found = []
    for where in ("", cluster.LOCAL):
        for stage in ("prepare", "featurize"):
            run(workspace, "python", "-m", f"stages.{stage}", PYTHONPATH=str(ROOT), TWEETS_CLUSTER=where)
        written = sorted(path for name in ("prepared", "features") for path in (workspace / "data" / name).rglob("*.*"))
        found.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written})
    assert found[0] == found[1]
