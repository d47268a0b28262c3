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

**Without labels**, agreement with the old version decides. Let both answer a part d of the shadowed queries otherwise
than each other, and the old one err on a part e of all. Where they differ, the old one is wrong on e of all queries at
most, so the new one is wrong on d - e at least: its accuracy is below that of the old one by d - 2 e or more, and is
1 - d + e at most. A d that is beyond what a term allows by that is evidence against the term. A d of less than what is
notably worse lets it pass. Between the two, no test can tell: once no label has come within `MAX_UNLABELLED` queries,
and d is by all evidence more than what passes, the roll-out ends, or asks a person.

**What is assumed.** The old version errs on no more queries than on its eval split, and `DOUBT`. A query is in the arm
of the new version by chance, whatever the query is. Where clients keep their arm, the queries of one client are alike:
few clients are fewer queries than they seem. Shadowed queries are free of that, as both versions answer them. A bound
on latency is on the probability that a query is late *given what was before*: in a burst in which both versions are
late, it does not hold, and the new version goes.

**How long it takes.** With a variance of v, and a distance of g between the truth and the hypothesis that is wrong, the
logarithm of the wealth grows by g² / (2 v) with each value. For an accuracy of a, and a share of p, the difference of
arms has a variance of a (1 - a) / (1 - p) with each query of the new version. Where both versions answer, it is the
part of queries that only one of them answers rightly. A version that is as good as the old one is 2 points from notably
worse, with a guard of `accuracy >= old - 0.005`: it passes after 2 v ln(1 / (1 - c)) / 0.02² queries in the mean: 1,100
at a = 0.92. `python -m benchmarks.lifecycle --parts guard` measures it.
"""
