"""What a lost device must show before it serves again."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from proteus_cli.control.decision import Host
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import VariantProfile


class Probation:
    """A lost device loads each engine that it is told to try, and runs a batch of it.

    That is all that it ``hosted`` before its loss; and if none of that works, others that it can host, the shortest
    load first, until one works. ``broken`` engines are left out, and what it can not host any more. The driver sets
    ``has_passed`` once an engine works; a device where none does stays lost.
    """

    def __init__(
        self,
        hosted: Iterable[Host],
        hostable: Sequence[VariantProfile],
        broken: Collection[VariantKey],
        load_s: Callable[[VariantProfile], float] = lambda measured: measured.load_s,
    ) -> None:
        self.has_passed = False
        usable = [each.key for each in sorted(hostable, key=load_s) if each.key not in broken]
        self._hosted = {host.key: host.max_batch for host in hosted if host.key in usable}
        self._others = [key for key in usable if key not in self._hosted]

    def to_try(self) -> Iterator[tuple[VariantKey, int]]:
        """The engines to try, each with the rows of its batch."""
        yield from self._hosted.items()
        for key in self._others:
            if self.has_passed:
                return
            yield key, 1
