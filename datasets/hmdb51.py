"""HMDB51."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from vidattr_bench.clip import Clip
from vidattr_bench.datamodule import ClipRef

from ._class_lists import ClassLists


@dataclasses.dataclass(eq=False, kw_only=True)
class HMDB51(ClassLists):
    """HMDB51, human motion in films and web video, 51 classes, without tubes.

    Clips are `<root>/hmdb51_org/<class>/<clip>.avi` (or mp4, mkv, webm, mov, gif) or folders of pictures
    `<root>/rawframes/<class>/<clip>/img_00001.jpg`; `hmdb51`, `videos`, `frames` and `<root>` itself are looked into
    too. The official lists mark 70 clips a class for training, 30 for testing, and the rest for neither. Frames are
    counted by decoding, since headers of the original files promise one more than there is. A clip's group is the
    film or video that it was cut from, whatever its class.

    Classes are numbered in the alphabetical order of their names. A network that was trained elsewhere and carries no
    names is matched by number: give its `classes_file` where its authors number them otherwise, as those of
    github.com/feichtenhofer/st-resnet do, with kick_ball before kick and sword_exercise before sword.

    Attributes:
        root: folder with the videos and the lists.
        splits: folder with <class>_test_split1.txt, ...; by default found below root, in testTrainMulti_7030_splits
            for one.
    """

    reference: ClassVar[str] = "Kuehne et al. 2011, doi 10.1109/ICCV.2011.6126543"
    clip_folders: ClassVar[Sequence[str]] = (
        "hmdb51_org", "hmdb51", "HMDB51", "videos", "rawframes", "frames", "jpegs_256", "."
    )  # fmt: skip
    list_folders: ClassVar[Sequence[str]] = (
        "testTrainMulti_7030_splits", "test_train_splits", "test_train_splits/testTrainMulti_7030_splits", "splits",
        "annotations", "."
    )  # fmt: skip

    def load(self, ref: ClipRef) -> Clip:
        """Decode a clip; its truth is unknown."""
        sampled = self.sampled(ref)
        return Clip(ref.id, ref.group, sampled.frames, ref.label, (), sampled.known & False)
