"""Version roll-outs: how far the new version may go, and whether it keeps its guard.

Theory of operation
===================

`VersionRollout` (`version_rollout.py`) is the machine that a driver asks what share of the queries the new version is
to answer. Its `Guard` (`guard.py`) is told of each query what is known: which version answered it, when, and how right
that was. Each term of the guard is a `TermTest` (`term_test.py`), which bets (`betting.py`) on losses of the new
version or on differences between both (`comparison.py`).

**What a guard promises**, with a confidence of c, however often somebody looks, and over the whole roll-out:

* A version that keeps all terms is rolled back by them with a probability of 1 - c at most. That is divided among the
  terms, of which accuracy gets three times as much as each other one, and not among the steps: the evidence of a term
  is one wealth, from the first query to the last.
* A version that is notably less accurate, or agrees notably less, passes the guard with a probability of 1 - c at
  most. Latency and errors are judged anew in each step, as they change with its load: for them that holds in each.

**What is assumed.** A query is in the arm of the new version by chance, whatever the query is. Where clients keep their
arm, the queries of one client are alike: few clients are fewer queries than they seem. Shadowed queries are free of
that, as both versions answer them. A bound on latency is on the probability that a query is late *given what was
before*: in a burst in which both versions are late, it does not hold, and the new version goes.

**How long it takes.** With a variance of v, and a distance of g between the truth and the hypothesis that is wrong, the
logarithm of the wealth grows by g² / (2 v) with each value. For an accuracy of a, and a share of p, the difference of
arms has a variance of a (1 - a) / (1 - p) with each query of the new version. Where both versions answer, it is the
part of queries that only one of them answers rightly. A version that is as good as the old one is 2 points from notably
worse, with a guard of `accuracy >= old - 0.005`: it passes after 2 v ln(1 / (1 - c)) / 0.02² queries in the mean: 1,100
at a = 0.92. `python -m benchmarks.lifecycle --parts guard` measures it.
"""
