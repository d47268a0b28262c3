"""Version roll-outs: the share of a new version, and the guard that it must keep.

Theory of operation
===================

`VersionRollout` (`version_rollout.py`) is a state machine. A driver asks it for the share of queries that the new
version is to answer. Its `Guard` (`guard.py`) learns each fact about a query: the version that answered, the time, and
the score. Each term of the guard is a `TermTest`: two sequential tests (`control/evidence.py`) of losses of the new
version, or of differences between both versions. `plan_expansion.py` places both versions in a plan.

**Promises of a guard**, with a confidence of c. They hold over the whole roll-out, however often it is read.

* A version that keeps all terms is rolled back by them with a probability of at most 1 - c. This error is divided among
  the terms; accuracy has three times the part of each other term. Accuracy and agreement have one test from the first
  query to the last. Latency and errors depend on the load: each step tests them anew, with a part of their error.
* A version that is notably less accurate, or agrees notably less, passes with a probability of at most 1 - c. For
  latency and errors, this holds in each step.

**Without labels**, agreement with the old version decides. Let both versions differ on a part d of the shadowed
queries, and let the old version err on a part e of all. The new version is then less accurate by at least d - 2 e, and
its accuracy is at most 1 - d + e. A larger d than a term allows is evidence against the term. A d below the notable
loss passes the term. Between the two, no test can decide. If no label has come within `MAX_UNLABELLED` queries and d
is larger than the notable loss, the roll-out ends, or asks a person.

**Assumptions.** The old version errs on at most the part of its eval split, plus `DOUBT`. A query gets the new version
by chance, whatever the query is. If clients keep their version, queries of one client are alike: few clients are fewer
queries than they seem. Shadowed queries do not have this problem. The bound of a latency holds for each query *given
the queries before*: a burst in which both versions are late rolls the new version back.

**Duration.** Let v be the variance, and g the distance between the truth and the false hypothesis. Each value adds
g² / (2 v) to the logarithm of the evidence. Let a be the accuracy, and p the share of the new version.
Without a shadow, v is a (1 - a) / (1 - p) for each query of the new version. With a shadow, v is the part of queries
that only one version answers rightly. An equal version is 2 points from notably worse with `accuracy >= old - 0.005`.
It passes after 2 v ln(1 / (1 - c)) / 0.02² queries in the mean: 1,100 at a = 0.92.
`benchmarks.lifecycle` of 1ab7c97d measures it.
"""
