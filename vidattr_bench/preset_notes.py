"""What each preset of metrics fixes, and how it differs from the code of the paper it is named after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vidattr_bench.plugins import Plugin
from vidattr_bench.text import prose

ALL = "all"

NOTES: Mapping[str, str] = {
    "default": (
        "What a run measures where nothing else is asked for: the endpoints declared in advance (SRG on tubelets with "
        "blur3d and with freeze, `roc_auc` against the tube), the two curves behind SRG, localisation, the share of "
        "tied units and the cost. Fixed: 392 tubelets, 32 steps, the target's probability, two substrates that fail "
        "differently."
    ),
    "faithfulness": (
        "Every faithfulness metric with its usual options: the curves and what is read on them with blur3d and with "
        "freeze, which cost no forward beyond those of the preset `default`; one blended clip a map and substrate; and "
        "200 random removals a clip, which all methods share."
    ),
    "rise": (
        "Deletion and insertion as the RISE paper reports them (Petsiuk 2018, arXiv 1806.07421; eclique/RISE, "
        "evaluation.py). Fixed: deletion to the mean pixel (0 on the normalised clip), insertion from the clip blurred "
        "frame by frame, the target's probability. Differences: (1) RISE changes single pixels, 224 of them a step; "
        "here 392 tubelets go in 32 steps, and `unit=voxel,steps=224` comes closest. (2) Its blur has a standard "
        "deviation of 5 of 224 rows, is cut after 5 pixels and padded with zeros; ours has a tenth of the height, is "
        "cut after 3 standard deviations and reflected at the edges; `blur:sigma=.022` has its width. (3) It explains "
        "the class that scores highest; a run explains the label unless `--target predicted` asks for that. (4) Ties "
        "stand in the order that an unstable sort leaves; here in that of a seeded permutation. (5) It takes all steps "
        "to be equally wide, the last one too, which may be narrower; here each has its own width."
    ),
    "step": (
        "Deletion and insertion as the STEP authors report them on video (Li 2021, arXiv 2109.00222; "
        "shinkyo0513/Spatio-Temporal-Perturbations-for-Video-Attribution, utils/CausalMetric.py and the scripts in "
        "bashes). Fixed: the mean pixel in both directions (their `fade`), most relevant first, the target's "
        "probability; once on a regular grid (their `cm`), once on supervoxels (`scm`). Differences: (1) a cell of "
        "their grid is one frame by 7 x 7 of 112 pixels, 4096 of them in 128 steps; here a tubelet spans frames too, "
        "392 of them in 32 steps. (2) They let SLIC draw about 256 segments over the clip (100 in some scripts) and "
        "take a segment's part in each frame as a unit of its own, ranked by the *sum* of its relevance, so that large "
        "parts go first; here a supervoxel is one unit across frames, ranked by its mean. (3) Their steps hold equal "
        "numbers of units and count as equally wide, though segments differ in size; here a step is as wide as the "
        "voxels it changes. (4) Ties stand in the order that an unstable sort leaves; here in that of a seeded "
        "permutation. (5) A random map is drawn from one global seed; here from (seed, clip)."
    ),
    "road": (
        "Remove and debias (Rong 2022, arXiv 2202.00449) as pytorch-grad-cam has it (metrics/road.py): ROADCombined "
        "and its two halves. Fixed: noisy linear imputation within each frame, single voxels, the mean over 10, 20, "
        "... 90 % of them removed, the target's probability. Differences: (1) pytorch-grad-cam cuts at percentiles of "
        "the map, so that tied pixels stay or go together and a sparse map loses all its zeros at once; here a seeded "
        "permutation orders ties, and every share is what it says. (2) Its noise is drawn anew from the global state "
        "for every removed set; here one field is drawn from (seed, clip). (3) It solves for the removed pixels "
        "directly; here conjugate gradients stop at an error of .001. (4) The paper shows the model's accuracy over "
        "the data set at each share; here every clip has its own value."
    ),
    "localisation": (
        "Agreement with the annotated tubes, and over time with the annotated frames, beside the chance level wherever "
        "there is a closed form of it (for `tube_iou` see the random control). "
        "Fixed: a threshold that matches the area of the tubes for overlaps (one row with half of the maximum), a "
        "tolerance of a sixteenth of the height in the pointing game (Zhang 2016, arXiv 1608.00507, has 15 pixels "
        "whatever the size), frame by frame and once with one argmax a clip. Differences to public code: a clip "
        "without truth, or whose target is not the annotated class, is undefined and counted as such, neither hit nor "
        "miss; tied maxima share."
    ),
    "temporal": (
        "When, not where: SRG on whole frames, the answer to freezing, shuffling and reversing the most relevant "
        "segment, and agreement of the map's marginal over time with the frames that the tubes cover."
    ),
    "robustness": (
        "How far a map moves when the clip is changed in ways that should not matter, or that it should follow. Each "
        "row explains the clip again, so that these are measured on the clips that `--sample` declares."
    ),
    "sanity": (
        "Whether a map depends on what the model has learned and on the class it is asked about, and keeps what its "
        "theory promises. The rows that explain again are measured on the clips that `--sample` declares. Differences "
        "to public code: every layer has a seed of its own, batch norms take their statistics from the clip, and a "
        "floor stands beside what is compared: the similarity of the maps of two random networks, and for selectivity "
        "what other seeds alone change."
    ),
    "complexity": (
        "How concentrated a map is, where it leans by habit, and whether it moves with the scene. Where a row has a "
        "direction it is that of its paper; none says that a map is faithful: these rows explain others."
    ),
    ALL: "Every variant of every preset, and the metrics that are in none with their usual options.",
}
"""A text for every preset; `test_presets` holds the two together."""


def members(plugins: Iterable[Plugin]) -> dict[str, tuple[str, ...]]:
    """The specs that each preset but `all` runs, as the sources declare them."""
    found: dict[str, list[str]] = {}
    for plugin in plugins:
        for preset, variants in plugin.declared.get("presets", {}).items():
            specs = [f"{plugin.name}:{options}" if options else plugin.name for options in variants]
            found.setdefault(preset, []).extend(specs)
    return {preset: tuple(found[preset]) for preset in sorted(found)}


def page(plugins: Iterable[Plugin]) -> str:
    """The section of the page on metrics that says what `--metrics PRESET` runs."""
    parts = ["## Presets", "`--metrics` takes these names beside specs of metrics."]
    for preset, specs in {**members(plugins), ALL: ()}.items():
        parts += [f"### {preset}", prose(NOTES.get(preset, "Of a third party.")), *_runs(specs)]
    return "\n\n".join(parts)


def _runs(specs: Iterable[str]) -> list[str]:
    runs = ", ".join(f"`{spec}`" for spec in specs)
    return [f"Runs {runs}."] if runs else []
