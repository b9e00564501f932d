"""Every row of the table in gateway/reconcile.py, and that it always comes to rest."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.reconcile import Actual, Bundle, Decision, Desired, RunnerState, decide
from gateway.routing import BUCKETS

ONE, TWO, THREE = (Bundle(str(number), f"sha256:{number}") for number in (1, 2, 3))
ALL = (ONE, TWO, THREE)


def step(
    desired: Desired | None, actual: Actual, *, rejected: tuple[Bundle, ...] = (), state: RunnerState = "ready"
) -> Decision:
    """Decide with all runners in one state."""
    states = {one.digest: (state, "no such file") for one in ALL}
    return decide("signs", desired, actual, frozenset(one.digest for one in rejected), states)


def test_the_first_version_takes_all() -> None:
    """Nothing is routed: the desired version takes everything, also when it was meant as a canary."""
    decision = step(Desired(ONE, 10, "c0ffee00"), Actual())
    assert (decision.route.stable, decision.route.canary, decision.phase) == (ONE, None, "Healthy")


def test_a_canary_gets_its_share() -> None:
    """The stable version keeps the rest; the weights are whole ten-thousandths and sum to all of them."""
    decision = step(Desired(TWO, 7, "c0ffee00"), Actual("r", ONE))
    assert [(one["version"], one["weight"]) for one in decision.route.variants()] == [("1", 9_300), ("2", 700)]
    assert decision.phase == "Paused"
    assert {ONE.digest, TWO.digest} <= decision.run


def test_a_growing_canary_keeps_its_rollout() -> None:
    """Nested: a higher weight of the same version is the same shuffle of units; another version is another."""
    first = step(Desired(TWO, 10, "aaaaaaaa"), Actual("r", ONE)).route
    assert step(Desired(TWO, 50, "bbbbbbbb"), first).route.rollout == first.rollout
    assert step(Desired(THREE, 50, "cccccccc"), first).route.rollout != first.rollout


def test_promotion_remembers_and_keeps_warm() -> None:
    """The version before is remembered, and its runner stays."""
    decision = step(Desired(TWO, None, "c0ffee00"), Actual("r", ONE, TWO, 1_000))
    assert (decision.route.stable, decision.route.canary, decision.route.previous) == (TWO, None, (ONE,))
    assert ONE.digest in decision.run


def test_a_version_that_is_not_ready_gets_nothing() -> None:
    """Loading: the route stays. Failed: it stays, and the reason is said."""
    actual = Actual("r", ONE)
    loading = step(Desired(TWO, None, "c0ffee00"), actual, state="starting")
    assert (loading.route, loading.phase) == (actual, "Progressing")
    assert TWO.digest in loading.run
    failed = step(Desired(TWO, None, "c0ffee00"), actual, state="failed")
    assert (failed.route, failed.phase) == (actual, "Degraded")
    assert "no such file" in failed.message
    assert "version 1 keeps all traffic" in failed.message
    assert TWO.digest in failed.run, "a failure that is forgotten would be tried again for ever"


def test_what_is_done_before_a_start_is_said() -> None:
    """A version whose environment is being built says how far that is."""
    runners: dict[str, tuple[RunnerState, str]] = {
        TWO.digest: ("starting", "building its environment: 3 of 9 packages")
    }
    decision = decide("signs", Desired(TWO, None, "c"), Actual("r", ONE), frozenset(), runners)
    assert (decision.phase, decision.message) == (
        "Progressing",
        "version 2 is building its environment: 3 of 9 packages",
    )


def test_what_serves_and_can_not_any_more_is_degraded() -> None:
    """The stable version's runners were given up: the route stays as it is, and the deployment says why."""
    decision = step(Desired(ONE, None, "c0ffee00"), Actual("r", ONE), state="failed")
    assert (decision.route.stable, decision.phase) == (ONE, "Degraded")
    assert "no such file" in decision.message


def test_only_what_has_no_traffic_is_just_kept_warm() -> None:
    """The version before is the one that needs no more than one runner; while it goes back to work it is none such."""
    assert step(Desired(TWO, None, "c"), Actual("r", TWO, previous=(ONE,))).warm == ONE.digest
    assert step(Desired(ONE, 10, "c"), Actual("r", TWO, previous=(ONE,))).warm is None
    assert step(Desired(ONE, None, "c"), Actual()).warm is None


def test_a_rejected_canary_is_taken_off() -> None:
    """The stable version alone remains, and the ref goes back to it."""
    decision = step(Desired(TWO, 10, "c0ffee00"), Actual("r", ONE, TWO, 1_000), rejected=(TWO,))
    assert (decision.route.stable, decision.route.canary) == (ONE, None)
    assert (decision.phase, decision.ref_back) == ("Aborted", ONE)


def test_a_rejected_stable_version_goes_back() -> None:
    """The newest version before that was not rejected takes over, as soon as it is loaded and not before."""
    actual = Actual("r", THREE, None, 0, (TWO, ONE))
    desired = Desired(THREE, None, "c0ffee00")
    back = step(desired, actual, rejected=(THREE, TWO))
    assert (back.route.stable, back.ref_back, back.phase) == (ONE, ONE, "Aborted")
    waiting = step(desired, actual, rejected=(THREE, TWO), state="starting")
    assert (waiting.route.stable, waiting.phase) == (THREE, "Progressing")
    assert ONE.digest in waiting.run


def test_the_only_version_keeps_the_traffic() -> None:
    """There is nothing to go back to: it serves on, and says so; a new version replaces it at once."""
    actual = Actual("r", ONE)
    alone = step(Desired(ONE, None, "c0ffee00"), actual, rejected=(ONE,))
    assert (alone.route.stable, alone.phase) == (ONE, "Degraded")
    replaced = step(Desired(TWO, None, "c0ffee00"), actual, rejected=(ONE,))
    assert (replaced.route.stable, replaced.ref_back) == (TWO, None)


def test_nothing_desired() -> None:
    """Nothing is routed and nothing runs."""
    decision = step(None, Actual("r", ONE))
    assert (decision.route.variants(), decision.run) == ([], frozenset())


bundles = st.sampled_from(ALL)
desires = st.one_of(
    st.none(), st.builds(Desired, bundles, st.one_of(st.none(), st.integers(1, 99)), st.just("c0ffee00"))
)
states = st.sampled_from(["absent", "starting", "ready", "failed"])


@given(st.lists(st.tuples(desires, st.sets(bundles), st.lists(states, min_size=3, max_size=3)), max_size=8))
def test_it_always_comes_to_rest(events: list[tuple[Desired | None, set[Bundle], list[RunnerState]]]) -> None:
    """Whatever is desired, rejected or dies: a second look changes nothing more, weights are whole, and no version
    that is not ready gets traffic that it did not have.
    """
    actual = Actual()
    for desired, rejected, found in events:
        runners = {one.digest: (state, "") for one, state in zip(ALL, found, strict=True)}
        digests = frozenset(one.digest for one in rejected)
        had = {one["digest"] for one in actual.variants()}
        first = decide("signs", desired, actual, digests, runners)
        for one in first.route.variants():
            assert one["digest"] in had or runners[one["digest"]][0] == "ready"
        assert sum(one["weight"] for one in first.route.variants()) in (0, BUCKETS)
        route = first.route
        for _ in range(3):
            following = decide("signs", desired, route, digests, runners)
            settled, route = following.route == route, following.route
        assert settled
        actual = route
