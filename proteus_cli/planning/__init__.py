"""From profiles and a demand to a plan: which device hosts which variant, and how each family's queries are shared.

Theory of operation
===================
A plan is made in seven steps, each a module::

    profiles, catalog, rules ─► instance ─► milp ─► lexicographic ─► pack ─► decode ─► planner ─► check
                                 arrays     model   solution         bundles  placements  plan     or an error
                                └─── model/ ───┘   └── solver/ ──┘   └ placements/ ┘

1. `instance` turns names into arrays. Devices that are alike (type, measurements, limits, price) form a *group*; a
   *choice* is one variant on one group, if it meets the SLO there and the rules allow it (`choices`). The model grows
   with the kinds of devices, not with their number: 40,000 devices of three types are three groups. Hosts of a cluster
   tell devices apart only where plans survive the loss of one, or where its network may limit what its devices answer.
2. `milp` formulates the model for an instance and a demand, in blocks of columns (`model.program`). Its integer
   variables say how many devices of its group host each choice (*replicas*). Losses are counted in *steps* of accuracy:
   the part of a family's demand that its k most accurate variants leave unanswered (*shortfall*). The numbers of a
   demand come from `target_demand`. Formulating takes a millisecond or two, so no model is kept.
3. `lexicographic` minimises one objective after another and fixes each, within a tolerance of 1e-6, before the next:
   what stays unserved (or, with `Rules.minimize`, the cost or power of serving all); the loss of the worst family, if
   asked for; the mean loss; loads of variants that aren't hosted now; devices in use, if asked for. Where all can be
   served, the first two are one solve. The result is a *solution*: replicas and rates by choice.
4. `pack` spreads the solution of each group over its devices. With one variant per device that is a division. With
   several it is bin packing by time and memory. A group's sums may promise more than single devices can hold. Then
   `search` makes each device of that group a group of its own, and solves again.
5. `decode` gives bundles of variants to devices, so that the fewest variants must be loaded.
6. `planner` has `search` do all this under a time limit, adds *spares* on idle devices, and writes the plan.
7. `check` tests the plan against profiles, catalog and rules, without the model. A wrong answer of the solver
   becomes an error, never a plan.

*Forecasts.* While serving, demands come with loss curves (`domain.demand`), and the model has a row for each line of
them. Then replicas without a share of the mean demand are of use, for bursts, and the loss of a re-plan includes what
its loads cost. One per cent of the objective is enough of a proof, as a forecast is known no better. On devices that
host several variants, each choice has *room*: its part of their time. The mean demand may leave some of it free.

*Sharing.* Where variants on one device slow each other, the sets of variants that devices hold are integer columns
(`model.resident_sets`). A capacity is a number only within a given set. `pack` then has nothing to do.

*Cascades.* Where the rules allow them, a family is answered by *ways*: a variant alone, or a cascade of two at one
threshold. The rate of each way is a column (`model.ways`). A choice is then a variant on a group for a part of the SLO,
which the stages share. `solver.solution.rates_by_way` divides the rates of ways among choices. The solver starts from
the best plan without cascades. While serving, where the plan in force cannot carry a forecast, the first plan that can
is enough (`PlacementSearch.first`).

*Preferences.* A family may prefer latency, energy or cost. The worth of a choice then replaces its accuracy, in steps
and in the order of filling (`model.worths`). All aims are one mean over queries. Bounds of a family's policy leave
choices out (`model.choices`).

*Gap and time.* `solve` alone knows HiGHS. A solve ends with a proof that no plan is better by 1e-6. After much effort
1e-4 of the objective's scale is enough; for unserved demand 1e-6, for accuracies with cascades 5e-4. Effort is counted
in the solver's steps, which gives the same plan for the same input. Past the time limit the best point found so far is
used, and the plan says "time limit" and its proven gap. Models with more than 1,500 integer columns are solved in
parts: first the choices that the relaxation uses, then ever more.

*Example.* Two devices of one type; family ``a`` has the variants ``small`` (accuracy .8, 100 qps) and ``large`` (.9, 40
qps) and a demand of 120 qps. There is one group, with two choices and two steps. All can be served: one replica of each
has 140 qps. The shortfalls are 80/120, the part that ``large`` leaves unanswered, and 0. The loss is (.9 - .8) ·
80/120. The plan answers 40 qps with ``large`` and 80 qps with ``small``: a mean accuracy of .833.

Beside the steps, `analysis/` makes more plans. `explain` finds the limits of a plan and their costs. `conflict` finds
rules and demands that no plan meets together. `frontier` finds the accuracy as demand grows. `heuristics` has the
planners of other systems. `networks` limits the use of each host's network.
"""
