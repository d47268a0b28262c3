"""The requests of one family that wait, most urgent first."""

from heapq import heappop, heappush

from proteus_cli.domain.request import Request


class DeadlineQueue:
    """Ordered by deadline, then by arrival; ``rows`` counts the rows of all that wait."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self.rows = 0

    def is_before(self, other: "DeadlineQueue") -> bool:
        """The most urgent request is due before that of another queue; in both, some wait."""
        return self._heap[0][0] < other._heap[0][0]  # noqa: SLF001 - of its own kind

    def push(self, request: Request) -> bool:
        """Add a request; True where it is now the most urgent of several."""
        heap = self._heap
        heappush(heap, (request.deadline_s, request.id, request))
        self.rows += request.rows
        return heap[0][2] is request and len(heap) > 1

    def peek(self) -> Request | None:
        """The most urgent request."""
        return self._heap[0][2] if self._heap else None

    def pop(self) -> Request:
        """Remove and return the most urgent request. Raises `IndexError` where there is none."""
        request = heappop(self._heap)[2]
        self.rows -= request.rows
        return request

    def take(self, at_most_rows: int) -> tuple[tuple[Request, ...], int]:
        """Remove the most urgent requests that fit so many rows together, and say how many; the first always fits."""
        heap = self._heap
        taken = [heappop(heap)[2]]
        rows = taken[0].rows
        while heap and rows + heap[0][2].rows <= at_most_rows:
            taken.append(heappop(heap)[2])
            rows += taken[-1].rows
        self.rows -= rows
        return tuple(taken), rows

    def drain(self) -> list[Request]:
        """Remove all, most urgent first."""
        return [self.pop() for _ in range(len(self._heap))]

    def row_counts(self) -> list[int]:
        """The rows of each request that waits, in no particular order."""
        return [request.rows for _, _, request in self._heap]

    def __len__(self) -> int:
        return len(self._heap)
