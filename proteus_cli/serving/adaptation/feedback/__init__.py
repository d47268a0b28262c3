"""Feedback: labels of requests that were answered, by ``POST /v2/proteus/feedback``, and what follows from them.

Each label is compared with what a variant answered, which the data plane keeps for a while
(`serving/requests/answers/answer_log.py`). `feedback.py` takes labels. `live_accuracies.py` has plans count on them.
Where a variant by itself is less accurate than its profile says, by more than chance
(`control/alarms.py`), plans count on its present accuracy. Once it is as it was, they count on the
profile again. Answers of cascades, and those that were cut short, are compared with what they promised, and change no
plan.
"""
