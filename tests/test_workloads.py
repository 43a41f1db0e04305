"""Workloads: laws, intervals, arrivals, embedded stand-ins, and `make`."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from jaxsched import workloads as w
from jaxsched.workloads import arrivals, embedded, intervals, lengths
from jaxsched.workloads.marginals import Marginal

KEY = jax.random.key(7)
SHAPE = (20, 10_000)


def outputs(law: lengths.Lengths, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return law.sample(KEY, shape)[1]


# Draws


def test_uniform_numbers_are_pinned() -> None:
    np.testing.assert_allclose(
        w.uniforms(KEY, (3,)), [0.18886419, 0.75496718, 0.19829557], atol=1e-8
    )


def test_samples_are_pinned() -> None:
    golden = {
        "lmsys": ([[3, 34, 3, 6], [4, 46, 38, 33]], [[569, 4, 7, 253], [20, 33, 50, 157]]),
        "sharegpt": (
            [[13, 149, 13, 21], [15, 268, 181, 148]],
            [[959, 13, 15, 758], [112, 255, 329, 636]],
        ),
        "lmsys_tokens": (
            [[8, 571, 8, 22], [11, 723, 625, 569]],
            [[499, 2, 7, 432], [39, 90, 161, 369]],
        ),
    }
    for name, (prompt, output) in golden.items():
        drawn = getattr(embedded, name)().sample(KEY, (2, 4))
        np.testing.assert_array_equal(drawn, (prompt, output), err_msg=name)


def test_samples_are_the_same_on_every_device_and_under_jit_settings() -> None:
    law = embedded.sharegpt()
    expected = law.sample(KEY, (2, 50))
    for device in jax.devices():
        with jax.default_device(device):
            np.testing.assert_array_equal(law.sample(jax.random.key(7), (2, 50)), expected)
    with jax.disable_jit():
        np.testing.assert_array_equal(law.sample(KEY, (2, 50)), expected)


def test_a_lane_does_not_depend_on_the_others() -> None:
    law = embedded.sharegpt().truncated(max_total=1000)
    whole = law.sample(KEY, (6, 40))
    part = law.sample(w.lane_keys(KEY, 2, first_lane=3), (2, 40))
    np.testing.assert_array_equal(np.asarray(whole)[:, 3:5], part)
    np.testing.assert_array_equal(law.sample(KEY, (2, 3, 40))[0], whole[0].reshape(2, 3, 40))


def test_lanes_differ() -> None:
    prompt, output = embedded.lmsys().sample(KEY, (2, 200))
    assert (prompt[0] != prompt[1]).mean() > 0.5 and (output[0] != output[1]).mean() > 0.5


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (0, "key: got int; expected a threefry key"),
        (np.zeros(2, np.uint32), "key: got ndarray; expected a threefry key"),
        (jax.random.key(0, impl="rbg"), "differ between devices"),
    ],
)
def test_other_keys_are_refused(key: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        w.uniforms(key, (3,))


def test_keys_must_match_the_lanes() -> None:
    with pytest.raises(ValueError, match=r"keys of shape \[3\]; expected .* \[2\]"):
        w.uniforms(w.lane_keys(KEY, 3), (2, 5))


# Laws


@pytest.mark.parametrize(
    ("law", "mean", "probabilities"),
    [
        (Marginal.constant(79), 79, {79: 1.0}),
        (Marginal.uniform(3, 6), 4.5, {3: 0.25, 6: 0.25}),
        (Marginal.two_point(1, 100, 0.2), 20.8, {1: 0.8, 100: 0.2, 50: 0.0}),
        (Marginal.geometric(4), 4, {1: 0.25, 2: 0.25 * 0.75, 10: 0.25 * 0.75**9}),
        (Marginal.geometric(1), 1, {1: 1.0}),
        (Marginal.weighted_geometric(7), 7, {1: 1 / 16, 2: 2 * 0.75 / 16, 9: 9 * 0.75**8 / 16}),
        (Marginal.weighted_geometric(1), 1, {1: 1.0}),
        (Marginal.from_weights(2, [1, 0, 3]), 3.5, {2: 0.25, 3: 0.0, 4: 0.75}),
    ],
)
def test_laws_have_their_probabilities(
    law: Marginal, mean: float, probabilities: dict[int, float]
) -> None:
    weights = np.diff(law.cumulative, prepend=0.0)
    assert law.mean == pytest.approx(mean, rel=1e-6)
    for value, probability in probabilities.items():
        assert weights[value - law.first] == pytest.approx(probability, abs=1e-9)


def test_log_normal_probabilities() -> None:
    law = Marginal.log_normal(mean=40, median=20, maximum=10**6)
    normal = stats.lognorm(s=np.sqrt(2 * np.log(2)), scale=20)
    weights = np.diff(law.cumulative, prepend=0.0)
    np.testing.assert_allclose(weights[[0, 1, 19]], [
        normal.cdf(1.5), normal.cdf(2.5) - normal.cdf(1.5), normal.cdf(20.5) - normal.cdf(19.5)
    ], rtol=1e-9)  # fmt: skip
    assert law.mean == pytest.approx(40, rel=1e-3) and law.quantile(0.5) == 20


@pytest.mark.parametrize(
    "law",
    [
        lengths.uniform((1, 300)),
        lengths.two_point(5, 500, 0.3),
        lengths.geometric(50),
        lengths.weighted_geometric(50),
        lengths.log_normal(85.32, 45, maximum=4096),
    ],
)
def test_samples_follow_their_law(law: lengths.MarginalLengths) -> None:
    sample = outputs(law).reshape(-1)
    assert sample.dtype == np.int32 and sample.min() >= 1
    assert sample.mean() == pytest.approx(law.output.mean, rel=0.02)
    assert sample.std() == pytest.approx(law.output.std, rel=0.05)
    seen = np.searchsorted(np.sort(sample), np.arange(1, law.max_output + 1), side="right")
    table = np.concatenate([np.zeros(law.output.first - 1), law.output.cumulative])
    assert np.abs(seen / len(sample) - table).max() < 0.005


def test_prompt_specifications() -> None:
    for spec, low, high in ((79, 79, 79), ((1, 5), 1, 5), (Marginal.two_point(2, 9, 0.5), 2, 9)):
        law = lengths.geometric(10, prompt=spec)
        prompt, output = law.sample(KEY, SHAPE)
        assert (prompt.min(), prompt.max(), law.max_prompt) == (low, high, high)
        assert high == low or abs(np.corrcoef(prompt.ravel(), output.ravel())[0, 1]) < 0.01
    with pytest.raises(TypeError, match="prompt is 'x'; expected"):
        lengths.geometric(10, prompt="x")


@pytest.mark.parametrize("rho", [-0.6, 0.138, 0.9])
def test_rank_correlation(rho: float) -> None:
    law = lengths.independent(Marginal.geometric(300), Marginal.geometric(200), rho)
    prompt, output = law.sample(KEY, SHAPE)
    seen = stats.spearmanr(prompt.ravel(), output.ravel()).statistic
    assert seen == pytest.approx(rho, abs=0.01)


def test_uniform_within_is_the_law_of_the_small_instances() -> None:
    prompt, output = lengths.uniform_within(30).sample(KEY, SHAPE)
    np.testing.assert_allclose(np.bincount(prompt.ravel())[1:] / prompt.size, 0.2, atol=0.01)
    assert (prompt + output).max() == 30 and output.min() == 1
    for s in (1, 5):
        assert output[prompt == s].mean() == pytest.approx((1 + 30 - s) / 2, rel=0.02)


def test_empirical_draws_rows_whole() -> None:
    law = lengths.empirical([1, 2, 3], [10, 20, 30], lower=[9, 19, 30], upper=[11, 20, 99])
    drawn = law.draw(KEY, (2, 3000))
    np.testing.assert_array_equal(drawn.output, 10 * drawn.prompt)
    np.testing.assert_array_equal(drawn.upper, np.array([0, 11, 20, 99])[drawn.prompt])
    np.testing.assert_allclose(np.bincount(drawn.prompt.ravel())[1:] / 6000, 1 / 3, atol=0.03)
    assert (law.max_prompt, law.max_output) == (3, 30)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(prompt=[1, 0], output=[1, 1]), "row 1: prompt is 0; expected"),
        (dict(prompt=[1], output=[1, 1]), r"prompt: got shape \[1\]; expected \[2\]"),
        (dict(prompt=1, output=[]), r"output: got shape \[0\]"),
        (dict(prompt=1, output=[1.5]), "output: got dtype float64; expected integers"),
        (dict(prompt=1, output=[2], lower=[1]), "expected both or neither"),
        (dict(prompt=1, output=[2], lower=[3], upper=[2]), "row 0: lower is 3; .* upper = 2"),
    ],
)
def test_empirical_refuses(arguments: dict, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        lengths.empirical(**arguments)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: lengths.uniform((5, 2)), "high is 2; expected .* at least 5"),
        (lambda: lengths.uniform((0, 2)), "low is 0"),
        (lambda: lengths.geometric(0.5), "mean is 0.5"),
        (lambda: lengths.geometric(1e7), "expected a maximum"),
        (lambda: lengths.two_point(1, 5, 1.5), "probability_high is 1.5"),
        (lambda: lengths.log_normal(10, 20, maximum=5), "expected 0 < median < mean"),
        (lambda: lengths.independent(1, 1, 2.0), "rank_correlation is 2.0"),
        (lambda: lengths.uniform_within(5, prompt=(1, 5)), "expected 1 <= low <= high < memory"),
        (lambda: Marginal.from_weights(1, [0.0]), "not all 0"),
        (lambda: Marginal.from_quantiles([0, 0.5], [1, 2]), "from 0 to 1"),
        (lambda: Marginal.from_quantiles([0, 1], [3, 2]), "non-decreasing"),
        (lambda: Marginal.from_quantiles([0, 1], [1, 2.5]), "whole numbers"),
        (lambda: Marginal.constant(2**31), "expected less than 2"),
    ],
)
def test_laws_refuse(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


# Truncation


@pytest.mark.parametrize(
    "law",
    [
        embedded.lmsys(),
        embedded.sharegpt(),
        lengths.empirical(np.arange(1, 400), 1 + np.arange(1, 400) * 7 % 400),
        lengths.empirical(Marginal.uniform(1, 300), np.arange(1, 400)),
    ],
)
def test_truncated_is_the_law_given_the_limits(law: lengths.Lengths) -> None:
    limits = dict(max_prompt=200, max_output=300, max_total=320)
    cut = law.truncated(**limits)
    prompt, output = (x.ravel() for x in law.sample(KEY, SHAPE))
    keep = (prompt <= 200) & (output <= 300) & (prompt + output <= 320)
    seen, found = (x.ravel() for x in cut.sample(jax.random.key(8), SHAPE))
    assert seen.max() <= 200 and found.max() <= 300 and (seen + found).max() <= 320
    for given, expected in ((seen, prompt[keep]), (found, output[keep])):
        assert stats.ks_2samp(given, expected).statistic < 0.01
    assert cut.max_prompt <= 200 and cut.max_output <= 300


def test_truncating_twice_is_truncating_once() -> None:
    law = embedded.sharegpt()
    once = law.truncated(max_output=100, max_total=150).sample(KEY, (2, 50))
    twice = law.truncated(max_total=150).truncated(max_output=100).sample(KEY, (2, 50))
    np.testing.assert_array_equal(once, twice)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_output is 2; expected at least 3"):
        embedded.sharegpt().truncated(max_output=2)
    with pytest.raises(ValueError, match="no row is within the limits"):
        lengths.empirical([5], [5]).truncated(max_total=9)
    rare = Marginal.two_point(1, 10, 1.0)
    with pytest.raises(ValueError, match="limits that leave more of the law"):
        lengths.independent(rare, rare).truncated(max_total=5).sample(KEY, (3,))


# Embedded stand-ins


def check_moments(
    sample: np.ndarray, mean: float, quantiles: dict[float, float], rel: float = 0.03
) -> None:
    assert sample.mean() == pytest.approx(mean, rel=rel)
    for level, value in quantiles.items():
        assert np.quantile(sample, level) == pytest.approx(value, rel=rel, abs=1.0), level


def test_sharegpt_matches_what_was_measured() -> None:
    prompt, output = (x.ravel() for x in embedded.sharegpt().sample(KEY, SHAPE))
    check_moments(prompt, 245.75, {0.05: 7, 0.25: 15, 0.5: 35, 0.75: 143, 0.9: 761, 0.99: 2862})
    check_moments(output, 325.63, {0.05: 23, 0.25: 136, 0.5: 286, 0.75: 446, 0.9: 681, 0.99: 1000})
    assert prompt.std() == pytest.approx(548.9, rel=0.03)
    assert output.std() == pytest.approx(241.9, rel=0.03)
    assert stats.spearmanr(prompt, output).statistic == pytest.approx(0.138, abs=0.01)
    assert (prompt.min(), output.min()) == (1, 3) and prompt.max() <= 3973 and output.max() <= 1734


def test_lmsys_matches_the_published_means_and_medians() -> None:
    law = embedded.lmsys()
    prompt, output = (x.ravel() for x in law.sample(KEY, SHAPE))
    check_moments(prompt, 40.62, {0.5: 11})
    check_moments(output, 85.32, {0.5: 45})
    assert law.max_prompt + law.max_output <= 16_492
    assert abs(stats.spearmanr(prompt, output).statistic) < 0.01


def test_lmsys_tokens_matches_what_was_measured() -> None:
    law = embedded.lmsys_tokens()
    prompt, output = (x.ravel() for x in law.sample(KEY, SHAPE))
    check_moments(output, 176.77, {0.1: 13, 0.25: 41, 0.5: 140, 0.75: 294, 0.9: 397, 0.99: 502})
    assert output.std() == pytest.approx(145.9, rel=0.02)
    assert prompt.mean() == pytest.approx(462, rel=0.04)
    totals = {64: 0.1314, 256: 0.3825, 512: 0.6383, 1024: 0.8307, 2048: 0.9483, 8192: 0.9965}
    for total, probability in totals.items():
        assert (prompt + output <= total).mean() == pytest.approx(probability, abs=0.005)
    assert law.max_prompt + law.max_output <= 16_492


def test_real_predictions_are_as_wrong_as_measured() -> None:
    output = outputs(embedded.lmsys_tokens())
    lower, upper = embedded.real_predictions()(KEY, output)
    assert (output < lower).mean() == pytest.approx(0.211, abs=0.01)
    assert (output > upper).mean() == pytest.approx(0.189, abs=0.01)
    assert set(np.unique(lower)) == {1, 42, 141, 294, 503}
    assert set(np.unique(upper)) == {41, 140, 293, 502, 511}
    long = (output >= 294) & (output < 503)
    assert (lower[long] == 42).mean() == pytest.approx(0.0704, abs=0.01)


# Intervals

SOURCES = {
    "one": intervals.one_for_all(1, 2000),
    "classes": intervals.classes(width=100, count=20),
    "relative": intervals.relative(0.37),
    "width": intervals.random_around(width=150),
    "x": intervals.random_around(x=0.8),
}


@pytest.mark.parametrize("name", SOURCES)
def test_intervals_hold_the_truth(name: str) -> None:
    output = outputs(embedded.sharegpt(), (3, 4000))
    lower, upper = SOURCES[name](KEY, output)
    assert lower.dtype == upper.dtype == np.int32
    assert lower.min() >= 1 and np.all(lower <= output) and np.all(output <= upper)
    again = SOURCES[name](w.lane_keys(KEY, 2, first_lane=1), output[1:])
    np.testing.assert_array_equal(np.asarray([lower, upper])[:, 1:], again)


def test_relative_rounds_outwards_and_exactly() -> None:
    output = np.array([1, 3, 10, 30, 1000])
    lower, upper = intervals.relative(0.1)(KEY, output)
    np.testing.assert_array_equal(lower, [1, 2, 9, 27, 900])
    np.testing.assert_array_equal(upper, [2, 4, 11, 33, 1100])
    np.testing.assert_array_equal(intervals.relative(0.0)(KEY, output), [output, output])
    np.testing.assert_array_equal(
        intervals.relative(1 / 3)(KEY, np.array([3, 300])), [[2, 200], [4, 400]]
    )


def test_classes_by_width_and_by_edges() -> None:
    output = np.array([1, 100, 101, 1000])
    by_width = intervals.classes(width=100, count=10)(KEY, output)
    np.testing.assert_array_equal(by_width, [[1, 1, 101, 901], [100, 100, 200, 1000]])
    by_edges = intervals.classes((0, 42, 141, 1001))(KEY, output)
    np.testing.assert_array_equal(by_edges, [[1, 42, 42, 141], [41, 140, 140, 1000]])


def test_outputs_of_no_class() -> None:
    output = np.array([[5, 6], [7, 1001]])
    with pytest.raises(ValueError, match="lane 1, request 1: output is 1001; .* 1 to 1000"):
        intervals.classes(width=100, count=10)(KEY, output)
    source = intervals.classes(width=100, count=10, open_ended=True)
    assert source(KEY, output)[1][1, 1] == 1000
    with pytest.raises(ValueError, match="request 0: output is 5; .* 6 to 9"):
        intervals.classes((6, 10), open_ended=True)(KEY, output[0])


def test_random_around_is_placed_uniformly() -> None:
    lower, upper = intervals.random_around(width=9)(KEY, np.full(SHAPE, 50))
    np.testing.assert_array_equal(upper - lower, 9)
    np.testing.assert_allclose(np.bincount(50 - lower.ravel()) / lower.size, 0.1, atol=0.01)
    lower, upper = intervals.random_around(x=0.25)(KEY, np.full((50,), 10))
    np.testing.assert_array_equal(upper - lower, 5)


@pytest.mark.parametrize("name", SOURCES)
def test_wrong_intervals_miss_as_often_as_asked(name: str) -> None:
    output = outputs(embedded.sharegpt())
    lower, upper = intervals.wrong(SOURCES[name], 0.3)(KEY, output)
    misses = (output < lower) | (output > upper)
    assert misses.mean() == pytest.approx(0.3, abs=0.01)
    assert lower.min() >= 1 and np.all(lower <= upper)
    base = SOURCES[name](KEY, output)[1] - SOURCES[name](KEY, output)[0]
    assert np.all((upper - lower <= base.max()) | (lower == 1))
    with pytest.raises(ValueError, match="probability is 1.1"):
        intervals.wrong(SOURCES[name], 1.1)


def test_wrong_has_no_room_below_an_output_of_one() -> None:
    lower, _ = intervals.wrong(intervals.relative(0.0), 1.0)(KEY, np.ones((100,), np.int32))
    np.testing.assert_array_equal(lower, 2)
    same = intervals.wrong(intervals.relative(0.5), 0.0)(KEY, np.arange(1, 50))
    np.testing.assert_array_equal(same, intervals.relative(0.5)(KEY, np.arange(1, 50)))


def test_from_classes() -> None:
    source = intervals.from_classes((0, 42, 141, 512), [2, 0, 1])
    expected = np.array([[141, 1, 42], [511, 41, 140]])
    np.testing.assert_array_equal(source(KEY, np.array([5, 6, 7])), expected)
    np.testing.assert_array_equal(
        source(KEY, np.ones((4, 3), int))[0], np.tile(expected[0], (4, 1))
    )
    with pytest.raises(ValueError, match="request 1: predicted class is 3; expected 0 to 2"):
        intervals.from_classes((0, 42, 141, 512), [2, 3])
    with pytest.raises(ValueError, match=r"got shape \[3\] for outputs of shape \[2\]"):
        source(KEY, np.array([5, 6]))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: intervals.one_for_all(5, 4), "expected 1 <= lower <= upper"),
        (lambda: intervals.classes(), "expected either edges, or width and count"),
        (lambda: intervals.classes((1, 5), width=3, count=1), "expected either edges"),
        (lambda: intervals.classes((0, 1, 5)), "no class empty"),
        (lambda: intervals.classes((5, 5)), "increasing"),
        (lambda: intervals.relative(1.0), "x is 1.0; expected at least 0 and less than 1"),
        (lambda: intervals.relative(float("nan")), "x is nan"),
        (lambda: intervals.random_around(), "expected one of the two"),
        (lambda: intervals.confusion((0, 5, 9), np.zeros((2, 2))), "no row of zeros"),
        (lambda: intervals.relative(0.9)(KEY, np.array([2**31 - 1])), "upper is .* at most"),
    ],
)
def test_intervals_refuse(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: intervals.one_for_all(1.5, 3), "lower is 1.5; expected a whole number"),
        (lambda: intervals.one_for_all(1, True), "upper is True; expected a whole number"),
        (lambda: intervals.classes(width=True, count=3), "width is True"),
        (lambda: intervals.classes(width=3, count=2.0), "count is 2.0"),
        (lambda: intervals.random_around(width=1.5), "width is 1.5"),
        (lambda: intervals.random_around(x="a"), "x is 'a'; expected a number"),
        (lambda: intervals.relative("a"), "x is 'a'; expected a number"),
        (lambda: intervals.wrong(intervals.relative(0.5), "a"), "probability is 'a'"),
        (lambda: intervals.relative(0.5)(KEY, [1.5]), "output: got dtype float64; expected integ"),
        (lambda: lengths.geometric("a"), "mean is 'a'; expected a number"),
        (lambda: lengths.log_normal(20, "a", maximum=5), "median is 'a'"),
        (lambda: lengths.uniform((1, 2.5)), "high is 2.5"),
        (lambda: lengths.two_point(1, 5, "a"), "probability_high is 'a'"),
        (lambda: lengths.uniform_within(9.5), "memory is 9.5"),
        (lambda: lengths.uniform((1, 20)).truncated(max_output=10.7), "max_output is 10.7"),
        (lambda: lengths.empirical([1], [1]).truncated(max_total=True), "max_total is True"),
        (lambda: lengths.independent(1, 1, "a"), "rank_correlation is 'a'"),
        (lambda: Marginal.uniform(1, 9).truncated(2.5), "maximum is 2.5"),
        (lambda: arrivals.bursts(2.0, 1), "size is 2.0"),
        (lambda: arrivals.poisson("a"), "rate is 'a'; expected a number"),
        (lambda: w.lane_keys(KEY, 2.0), "lanes is 2.0"),
    ],
)
def test_what_is_no_number_or_not_whole_is_refused(make: object, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize("name", SOURCES)
def test_intervals_take_lists(name: str) -> None:
    listed, array = (SOURCES[name](KEY, o) for o in ([7, 90], np.array([7, 90])))
    np.testing.assert_array_equal(listed, array)


# Arrivals


def test_poisson() -> None:
    rounds = arrivals.poisson(0.5)(KEY, SHAPE)
    assert rounds.dtype == np.int32 and rounds.min() >= 0 and np.all(np.diff(rounds) >= 0)
    assert rounds[:, -1].mean() == pytest.approx(SHAPE[1] / 0.5, rel=0.02)
    counts = np.bincount(rounds[0])
    assert counts.mean() == pytest.approx(0.5, rel=0.05)
    assert counts.var() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(
        arrivals.poisson(0.5)(w.lane_keys(KEY, 1, first_lane=3), (1, SHAPE[1])), rounds[3:4]
    )


def test_bursts() -> None:
    rounds = arrivals.bursts(4, gap=30.0)(KEY, (5, 4002))
    np.testing.assert_array_equal(rounds[:, :4], 0)
    np.testing.assert_array_equal(rounds[:, :4000:4], rounds[:, 3:4000:4])
    assert rounds[:, -1].mean() == pytest.approx(1000 * 30, rel=0.1)


def test_arrivals_from_a_trace() -> None:
    seconds = np.array([10.0, 10.1, 10.25, 11.0])
    source = arrivals.from_trace(seconds, 10)
    np.testing.assert_array_equal(source(KEY, (2, 4)), [[0, 1, 3, 10]] * 2)
    windows = arrivals.from_trace(np.cumsum(np.arange(9.0)), 1, random_start=True)(KEY, (500, 3))
    assert len(np.unique(windows, axis=0)) == 7 and np.all(windows[:, 0] == 0)
    with pytest.raises(ValueError, match="n is 5; expected at most 4"):
        source(KEY, (5,))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: arrivals.poisson(0), "rate is 0; expected"),
        (lambda: arrivals.bursts(0, 1), "size is 0; expected"),
        (lambda: arrivals.bursts(2, -1.0), "gap is -1.0; expected"),
        (lambda: arrivals.from_trace([2.0, 1.0], 1), "non-decreasing"),
        (lambda: arrivals.from_trace([1.0], 0), "rounds_per_second is 0"),
        (lambda: arrivals.poisson(1e-9)(KEY, (5,)), "the last arrival is in round"),
    ],
)
def test_arrivals_refuse(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


# Instances


def test_make_is_pinned() -> None:
    instance = w.make(
        KEY,
        lengths=embedded.lmsys_tokens(),
        intervals=embedded.real_predictions(),
        arrivals=arrivals.poisson(0.5),
        n=5,
        memory=16_492,
    )
    assert instance.memory == 16_492 and instance.num_requests is None
    np.testing.assert_array_equal(instance.prompt, [571, 41, 108, 11, 374])
    np.testing.assert_array_equal(instance.output, [353, 78, 22, 20, 19])
    np.testing.assert_array_equal(instance.lower, [294, 42, 1, 1, 1])
    np.testing.assert_array_equal(instance.upper, [502, 140, 41, 41, 41])
    np.testing.assert_array_equal(instance.point, [398, 91, 21, 21, 21])
    np.testing.assert_array_equal(instance.arrival, [0, 1, 1, 8, 10])


def test_make_in_chunks_is_make_at_once() -> None:
    def chunk(lanes: int | tuple[int, ...] | None, first: int = 0) -> list[np.ndarray]:
        instance = w.make(
            KEY,
            lengths=embedded.sharegpt().truncated(max_total=2000),
            intervals=intervals.wrong(intervals.random_around(x=0.5), 0.2),
            arrivals=arrivals.bursts(3, 5.0),
            n=30,
            memory=2000,
            lanes=lanes,
            first_lane=first,
        )
        return [x for x in jax.tree.leaves(instance) if np.ndim(x)]

    whole = chunk(6)
    assert len(whole) == 6 and whole[0].shape == (6, 30)
    for all_lanes, a, b in zip(whole, chunk(2), chunk(4, 2), strict=True):
        np.testing.assert_array_equal(all_lanes, np.concatenate([a, b]))
    for all_lanes, single, shaped in zip(whole, chunk(None, 5), chunk((2, 3)), strict=True):
        np.testing.assert_array_equal(all_lanes[5], single)
        np.testing.assert_array_equal(all_lanes.reshape(2, 3, 30), shaped)


def test_make_with_own_points_memory_and_intervals() -> None:
    law = lengths.empirical([1, 2], [5, 6], lower=[4, 1], upper=[5, 9])
    memory = np.array([7, 8, 9])
    instance = w.make(
        KEY, lengths=law.truncated(max_total=7), n=4, lanes=3, memory=memory,
        point=lambda key, output: output,
    )  # fmt: skip
    np.testing.assert_array_equal(instance.memory, memory)
    np.testing.assert_array_equal(instance.point, instance.output)
    np.testing.assert_array_equal(instance.lower, 4)
    assert instance.arrival is None


def test_make_refuses_what_cannot_run() -> None:
    settings = dict(lengths=lengths.uniform((1, 9), prompt=3), n=50, memory=8)
    with pytest.raises(ValueError, match=r"lane 0, request \d+: prompt \+ output is .* memory = 8"):
        w.make(KEY, intervals=intervals.relative(0.5), lanes=2, **settings)
    with pytest.raises(ValueError, match="intervals is None"):
        w.make(KEY, **settings)
    with pytest.raises(ValueError, match=r"memory: got shape \[2\]"):
        w.make(KEY, intervals=intervals.relative(0.5), **(settings | dict(memory=np.array([9, 9]))))
    with pytest.raises(ValueError, match="lanes is 0"):
        w.make(KEY, intervals=intervals.relative(0.5), lanes=0, **settings)
    for wrong in (dict(n=2.5), dict(lanes=True), dict(first_lane=0.5), dict(memory=8.5)):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))}.* expected"):
            w.make(KEY, intervals=intervals.relative(0.5), **(settings | wrong))
