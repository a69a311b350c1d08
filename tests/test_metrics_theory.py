"""How claims of theory are read; the check `metric_keeps_its_theory` holds every metric to its own."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score

from vidattr_bench import plugins, theory
from vidattr_bench.metric import Case, Measurement
from vidattr_bench.presets import presets
from vidattr_bench.text import markdown


@pytest.mark.parametrize("text", presets()["all"])
def test_a_constant_map_gets_the_chance_level_where_it_has_a_value(text):
    metric = plugins.create("metrics", text)
    measured = theory.measure(metric, {"constant": theory.few_cases(bool(metric.explains))["constant"]})["constant"]
    if measured.chance is not None:
        known = ~measured.values.isnan()
        torch.testing.assert_close(measured.values[known], measured.chance[known], rtol=0, atol=1e-9)


def test_the_page_shows_what_theory_says_of_every_metric():
    """Run `python docs/metrics_page.py` where this fails."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = page.partition("## What theory says of control maps")[2].partition("\n\n1. ")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in table.splitlines() if line.startswith("| ")]
    shown = {re.sub(r" \[\d+\]$", "", name): cells for name, *cells in rows[1:]}
    assert set(shown) == {markdown(text) for text in presets()["all"]}
    for text in presets()["all"]:
        claims = plugins.create("metrics", text).theory
        stated = [markdown(str(claims.get(name, "("))) for name in theory.CONTROLS]
        assert all(cell.startswith(claim) for cell, claim in zip(shown[markdown(text)], stated, strict=True)), text


def test_the_page_holds_what_was_found():
    """Run `python docs/metrics_page.py` where this fails."""
    docs = Path(__file__).parents[1] / "docs"
    findings = (docs / "metrics_findings.md").read_text(encoding="utf-8")
    assert findings.strip() in (docs / "metrics.md").read_text(encoding="utf-8")


def test_the_model_reads_the_tubes_and_nothing_else():
    case = theory.few_cases(False)["oracle"]
    x = case.batch.frames.double()
    outside = x * ~case.batch.tubes[:, None]
    logits = case.model.logits(x.float())
    assert torch.equal(logits.argmax(1), case.batch.labels)
    own = torch.arange(len(x)), case.batch.labels
    assert torch.allclose(logits[own], (6 * x * case.batch.tubes[:, None]).sum((1, 2, 3, 4)) / (3 * tube_size(case)))
    assert case.model.logits(outside.float())[own].abs().max() == 0


def tube_size(case: Case) -> torch.Tensor:
    return case.batch.tubes.sum((1, 2, 3))


def claim(text: str | float, *values: float, name: str = "oracle", chance: float = 0.25, **others: float) -> bool:
    """Whether a claim of one control holds for these values a clip."""
    metric = plugins.create("metrics", "tube_iou")
    declared = type("Declared", (type(metric),), {"theory": {name: text}})()
    inside = torch.zeros(len(values), 2, 2, 3, dtype=torch.bool)
    inside[:, 0, 0] = True
    level = torch.full((len(values),), chance, dtype=torch.float64)
    found = {name: Measurement(torch.tensor(values, dtype=torch.float64), level)}
    found |= {other: Measurement.of([value] * len(values)) for other, value in others.items()}
    return not theory.broken(declared, found, inside)


def test_claims_are_numbers_quantities_relations_and_reasons():
    assert claim(1, 1.0, 1.0)
    assert not claim(1, 1.0, 1 - 1e-8)
    assert claim("|G|/N", 0.25)
    assert claim("1 - |G|/N", 0.75)
    assert claim("|F|/t", 0.5)
    assert claim("log|G| / log N", 0.4421141086977403)
    assert claim("chance", 0.25)
    assert claim("> 0", 0.1, -0.05)
    assert not claim("< 0", 0.1, -0.05)
    assert claim("= -random", 0.5, random=-0.5)
    assert claim("< random", 0.5, random=0.6)
    assert not claim("> random", 0.5, random=0.6)
    assert claim(0, 0.1, -0.1, name="random")
    assert not claim(0, 0.1, 0.1001, name="random")
    assert not claim(1, float("nan"))


def test_a_claim_that_names_nothing_known_is_refused():
    with pytest.raises(ValueError, match=r"oracle names '\|H\|/N', which is neither a number nor one of \|G\|/N, "):
        claim("|H|/N", 0.25)


def test_the_expected_precision_of_a_random_order_is_that_of_all_orders():
    inside = torch.tensor([True, True, False, False, False, False]).view(1, 2, 3)
    orders = list(itertools.permutations(range(6)))
    mean = sum(average_precision_score(inside.flatten().numpy(), order) for order in orders) / len(orders)
    assert theory.QUANTITIES["(H + (|G|-1)(N-H)/(N-1))/N"](inside) == pytest.approx(mean)
