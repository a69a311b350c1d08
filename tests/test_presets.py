"""Presets: every one is described, and the page that imports nothing lists what the classes declare."""

from vidattr_bench import plugins
from vidattr_bench.listing import render
from vidattr_bench.plugins import available
from vidattr_bench.preset_notes import ALL, NOTES, members
from vidattr_bench.presets import complete, presets, resolve


def test_every_preset_says_what_it_fixes():
    assert set(presets()) == set(NOTES)


def test_the_sources_show_the_members_that_the_classes_declare():
    declared = {name: set(specs) for name, specs in presets().items() if name != ALL}
    assert {name: set(specs) for name, specs in members(available("metrics").values()).items()} == declared


def test_a_preset_is_held_where_all_its_metrics_are():
    labels = [plugins.label("metrics", metric) for metric in resolve(["road", "rise", "srg"])]
    assert set(complete(labels)) == {"rise", "road"}
    assert complete(labels)["rise"] == [plugins.label("metrics", metric) for metric in resolve(["rise"])]
    assert set(complete(labels[1:])) == {"rise"}


def test_a_preset_that_cannot_be_configured_stops_no_run_without_it(monkeypatch):
    monkeypatch.setattr(plugins.load("metrics", "road"), "presets", {"road": ("",), "broken": ("no_such_option=1",)})
    assert "broken" in presets()
    labels = [plugins.label("metrics", metric) for metric in resolve(["road"])]
    assert complete(labels) == {"road": labels}


def test_the_page_on_metrics_has_a_section_of_presets_in_front_of_the_metrics():
    page = render("metrics", "md")
    section, _, rest = page.partition("## Presets\n")[2].partition("\n\n## ")
    assert rest.startswith("average_drop")
    for name, specs in presets().items():
        text = section.partition(f"### {name}\n")[2].partition("\n\n### ")[0]
        assert " ".join(NOTES[name].split())[:20] in text
        assert name == ALL or all(f"`{spec}`" in text for spec in specs)
    assert "## Presets" not in render("methods", "md")


def test_presets_named_after_papers_say_how_they_differ():
    for name in ("rise", "step", "road"):
        assert "arXiv" in NOTES[name]
        assert "Differences: (1)" in NOTES[name]
    assert presets()["step"] == tuple(
        f"{name}:substrate=mean{unit}" for name in ("deletion", "insertion") for unit in ("", ",unit=supervoxel")
    )
