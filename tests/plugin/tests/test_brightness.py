"""The third party's own test suite, as its author would write it."""

import os


def test_brightness_is_as_good_as_in_the_last_release(vidattr_gate):
    found = vidattr_gate(
        ["brightness"], reference=os.environ["ACCEPTED"], margins={"families": {"localisation": MARGIN}}
    )
    assert found.verdict == "pass"


MARGIN = {"margin": 0.02, "reason": "what a table with two decimals shows"}
