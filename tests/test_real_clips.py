"""The real clips beside the project with R(2+1)D-Light: every annotated clip gets its rows; the oracle is perfect."""

import pytest

import vidattr_bench as vb

# What the network's author's preprocessing predicts; the last four are wrong.
PREDICTIONS = {
    "v_Basketball_g01_c01": "Basketball", "v_Basketball_g01_c02": "Basketball", "v_Biking_g05_c02": "Biking",
    "v_CliffDiving_g01_c01": "CliffDiving", "v_Diving_g01_c01": "Diving", "v_Fencing_g01_c01": "Fencing",
    "v_Fencing_g01_c02": "Fencing", "v_HorseRiding_g16_c02": "HorseRiding", "v_SalsaSpin_g03_c01": "SalsaSpin",
    "v_SoccerJuggling_g23_c01": "SoccerJuggling", "v_Surfing_g25_c02": "Surfing",
    "v_SkateBoarding_g02_c01": "Biking", "v_Skiing_g24_c01": "FrontCrawl", "v_SoccerJuggling_g16_c01": "Swing",
    "v_WalkingWithDog_g19_c05": "Swing",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.real
def test_every_annotated_clip_gets_its_rows(real_data, tmp_path):
    metrics = ["roc_auc", "rank_accuracy", "pointing_game", "tube_iou", "srg:steps=2"]
    run = vb.run(
        dataset=f"ucf101:root={real_data}/ucf101,part=all,subset=24",
        model=f"r2plus1d_light:checkpoint={real_data}/models/ucf101_r2plus1d_light_112.pth",
        methods=["grad_cam", "saliency_tubes", "oracle"],
        metrics=metrics,
        output=tmp_path / "run",
        forward_batch=2,
        pictures=1,
    )
    assert run.failed == 0
    scores = run.scores()
    assert set(scores["clip"]) == set(PREDICTIONS)
    assert len(scores) == len(PREDICTIONS) * 3 * len(metrics)
    predicted = scores.groupby("clip")["prediction"].first()
    assert sum(predicted[clip] == name for clip, name in PREDICTIONS.items()) >= 12
    oracle = scores.query("method == 'oracle' and metric in ['roc_auc', 'rank_accuracy', 'pointing_game']")
    assert (oracle.query("status == 'ok'")["value"] == 1.0).all()
    undefined = oracle.query("status != 'ok'")
    assert set(undefined["reason"]) <= {"no_tubes", "all_tube"}
    assert len(oracle) - len(undefined) >= 12 * 3
    assert len(list((run.folder / "clips").glob("*/heat.png"))) == 1
