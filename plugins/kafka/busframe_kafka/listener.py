"""What a member of a group tells whoever uses it."""

from busframe.errors import BusframeError


class Listener:
    """What a member tells, on the loop. All of it may be left out."""

    def arrived(self) -> None:
        """There are records to take, after there were none."""

    def assigned(self, partitions: int) -> None:
        """It has so many partitions now, of those that its group reads."""

    def lost(self) -> None:
        """It has lost its membership: all that it has is delivered again, here or elsewhere."""

    def dropped(self, topic: str, partition: int, records: int) -> None:
        """So many records were deleted by retention before they were fetched."""

    def missing(self) -> None:
        """The server does not know a topic; that may pass."""

    def failed(self, error: BusframeError) -> None:
        """It has ended by itself."""
