"""VideoDataModule: a data set whose clips are videos on disk, so that it delivers colour, optical flow, or both."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError
from vidattr_bench.flow_cache import FlowCache
from vidattr_bench.motion import ComputedFlow, Flow, Frames, VideoFrames, algorithm, sample_streams
from vidattr_bench.stored_flow import Fields, StoredFlow, find_fields
from vidattr_bench.transform import Sampled, sample_clip
from vidattr_bench.video import frame_count


@dataclasses.dataclass(eq=False, kw_only=True)
class VideoDataModule(ClipDataModule):
    """Clips that are sampled from videos on disk, one video a clip.

    Attributes:
        root: folder with the videos.
        flow_root: folder with optical flow that was extracted before, for a model that wants flow; by default it is
            computed.
        flow_every: frames of the video from one field of `flow_root` to the next; by default 1.
        flow_side: short side in pixels of the pictures that flow is computed on.
        flow_step: frames from the first to the second picture that flow is computed from.
        flow_cache: folder where computed flow is kept.
    """

    root: Path
    flow_root: Path | None = None
    flow_every: int | None = None
    flow_side: int = 256
    flow_step: int = 1
    flow_cache: Path = Path("results/flow")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.root, self.flow_cache = Path(self.root), Path(self.flow_cache)
        self.flow_root = None if self.flow_root is None else Path(self.flow_root)
        for field, least in (("flow_every", 1), ("flow_side", 16), ("flow_step", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise DataError(f"{field}={value} must be {least} or more")

    @property
    def delivers_flow(self) -> bool:
        """True: flow is read or computed."""
        return True

    @abstractmethod
    def video(self, ref: ClipRef) -> Path:
        """The video of a clip: a file, or a folder of numbered pictures."""

    def flow_names(self, ref: ClipRef) -> Sequence[str]:
        """What the flow of a clip may be called below `flow_root`: its place below root, or the end of that."""
        place = self.video(ref).relative_to(self.root)
        parts = [*place.parent.parts, place.name if self.video(ref).is_dir() else place.stem]
        return ["/".join(parts[i:]) for i in range(len(parts))]

    def sampled(self, ref: ClipRef, total: int | None = None) -> Sampled:
        """The frames of a clip, of the streams that `clip_input` asks for.

        Args:
            ref: the clip.
            total: number of frames of its video where that is known; by default they are counted.

        Raises:
            DataError: the video or its flow cannot be read, or they do not belong together.
        """
        path = self.video(ref)
        if not self.clip_input.flow:
            return sample_clip(path, self.clip_input, total)
        frames, total = VideoFrames(path), frame_count(path) if total is None else total
        return sample_streams(frames, total, self.clip_input, self._flow_of(ref, frames, total))

    def computed_flow(self, frames: Frames, total: int) -> Flow:
        """Flow computed from frames as the options say."""
        return ComputedFlow(frames, total, self.flow_side, self.flow_step, FlowCache(self.flow_cache))

    def with_flow(self, fingerprint: str) -> str:
        """The fingerprint of the clips, and of their flow where the model wants it.

        Raises:
            DataError: no clip has flow, or two clips have the same.
        """
        if not self.clip_input.flow:
            return fingerprint
        digest = hashlib.sha256(fingerprint.encode())
        for line in self.flow_facts():
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]

    def flow_facts(self) -> list[str]:
        """What flow is made from: the algorithm, or every clip's files by name and size; raises as `with_flow`."""
        if self.flow_root is None:
            return [str(algorithm(self.flow_side, self.flow_step))]
        owners: dict[Path, str] = {}
        facts, without = [f"every {self.flow_every or 1}"], []
        for ref in self.refs():
            try:
                stored = self._stored(self.flow_root, ref)
                facts.append(f"{ref.id} {stored.path.relative_to(self.flow_root)} {stored.stamp()}")
            except DataError as error:  # which costs this clip its rows once it is loaded
                without.append(error)
                continue
            if (other := owners.setdefault(stored.path, ref.id)) != ref.id:
                raise DataError(f"{stored.path}: is the flow of {other} and of {ref.id}; name flow by the whole path")
        if not owners:
            raise without[0]
        return facts

    def _flow_of(self, ref: ClipRef, frames: Frames, total: int) -> Flow:
        if self.flow_root is None:
            return self.computed_flow(frames, total)
        return StoredFlow(self._stored(self.flow_root, ref), self.video(ref), total, self.flow_every or 1)

    def _stored(self, root: Path, ref: ClipRef) -> Fields:
        found = find_fields(root, self.flow_names(ref))
        if found.path.resolve() == self.video(ref).resolve():
            raise DataError(
                f"{found.path}: is the video of {ref.id} and not its flow; give flow_root=, where flow lies"
            )
        return found
