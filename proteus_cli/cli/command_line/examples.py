"""Two examples of each command, which its ``--help`` begins with."""

from collections.abc import Mapping
from types import MappingProxyType

Example = tuple[str, str]
"""A command line, and what it does."""

EXAMPLES: Mapping[str, tuple[Example, Example]] = MappingProxyType({
    "proteus": (
        ("proteus demo", "see on this machine what it is about"),
        ("proteus init ws", "make a workspace with sample models, to go on from"),
    ),
    "proteus init": (
        ("proteus init ws", "make a workspace in the directory `ws`"),
        ("proteus init --force", "put the samples in this directory back"),
    ),
    "proteus devices": (
        ("proteus devices", "list the devices, and whether they are profiled"),
        ("proteus devices --json", "the same as JSON, with all that is known of GPUs"),
    ),
    "proteus devices forget": (
        ("proteus devices forget b", "remove the profiles of all devices of the host `b`"),
        ("proteus devices forget b/cpu0", "of one of its devices"),
    ),
    "proteus catalog": (
        ("proteus catalog add things thing.onnx --slo 200ms", "make a family of one model"),
        ("proteus catalog derive thing --int8 --calibration calib.npz", "derive a variant from it"),
    ),
    "proteus catalog add": (
        ("proteus catalog add things thing.onnx --slo 200ms --eval eval.npz", "measure the accuracy on labelled rows"),
        ("proteus catalog add things large.onnx small.onnx --accuracy large=.95,small=.9", "or state accuracies"),
    ),
    "proteus catalog split": (
        ("proteus catalog split nets a.onnx --at p1,p2 --slo 50ms --eval eval.npz", "a model of three exits"),
        ("proteus catalog split nets a.onnx --at p1,p2 --stop-when $CONDITION", "under one condition"),
    ),
    "proteus catalog diff": (
        ("proteus catalog diff", "what a server on port 8000 would change if it read the catalog now"),
        ("proteus catalog diff --url https://edge1:8443 --ca ca.pem", "the same of another server"),
    ),
    "proteus catalog derive": (
        ("proteus catalog derive thing --int8 --calibration calib.npz", "a variant with numbers of 8 bits"),
        ("proteus catalog derive digits/digits-xl --fp16 --dry-run", "only show what would be made"),
    ),
    "proteus task": (
        ("proteus task add wine --data wine.npz --slo 50ms", "train a family of variants from labelled rows"),
        ("proteus task add wine --data wine.npz --slo 5ms --models linear,mlp-64", "of these kinds of models only"),
    ),
    "proteus task add": (
        ("proteus task add wine --data wine.npz --slo 50ms", "train a family of variants from labelled rows"),
        ("proteus task add wine --data wine.npz --slo 5ms --models linear,mlp-64", "of these kinds of models only"),
    ),
    "proteus task retrain": (
        ("proteus task retrain wine --data new.npz", "train new versions, and judge them beside the earlier ones"),
        ("proteus task retrain wine --url http://127.0.0.1:8000 --auto", "then have a server roll one out by steps"),
    ),
    "proteus task list": (
        ("proteus task list", "the tasks of the catalog"),
        ("proteus task list --json", "the same as JSON, with all variants"),
    ),
    "proteus task show": (
        ("proteus task show wine", "what it was trained on, and its versions"),
        ("proteus task show wine --json", "the same as JSON"),
    ),
    "proteus profile": (
        ("proteus profile --budget 60s", "measure all variants, within a minute for each device"),
        ("proteus profile --from-csv profiles.csv --slo 300ms", "import profiles instead, without models"),
    ),
    "proteus plan": (
        ("proteus plan --demand 1200qps", "plan for this machine's profiled devices"),
        ("proteus plan --demand bert=50qps,yolo=80qps --fleet cpu:20,v100:10", "plan for a cluster"),
    ),
    "proteus plan diff": (
        ("proteus plan diff plan.json other.json", "compare two plans of the workspace"),
        ("proteus plan diff plan.json 000012-20261126T120000Z", "compare with one that was in force"),
    ),
    "proteus serve": (
        ("proteus serve plan.json", "serve plans/plan.json at http://127.0.0.1:8000"),
        ("proteus serve plan.json --port 0 --grpc-port 0 --emulate", "rehearse on emulated devices, with gRPC"),
    ),
    "proteus rollout": (
        ("proteus rollout start digits digits-l@2 --canary 1%,10%,50% --auto", "roll a new version out, step by step"),
        ("proteus rollout status", "how far it is, and what is known of it"),
    ),
    "proteus rollout start": (
        ("proteus rollout start digits digits-l@2 --shadow 5% --canary 5%,50%", "each step waits for `promote`"),
        ("proteus rollout start digits digits-l@2 --auto", "steps end once the guard passes"),
    ),
    "proteus rollout status": (
        ("proteus rollout status", "the last roll-out of each family of a server on port 8000"),
        ("proteus rollout status --json", "the same as JSON"),
    ),
    "proteus rollout promote": (
        ("proteus rollout promote digits", "go on to the next step"),
        ("proteus rollout promote digits --fully", "serve the new version in place of the old one"),
    ),
    "proteus rollout abort": (
        ("proteus rollout abort digits", "serve the old version"),
        ("proteus rollout abort digits --reason 'labels are late'", "say why, for the journal"),
    ),
    "proteus cluster": (
        ("proteus cluster key", "make cluster.pem, to be copied to each machine"),
        ("proteus serve plan.json --cluster hosts.toml", "serve with the devices of all machines"),
    ),
    "proteus cluster key": (
        ("proteus cluster key", "make cluster.pem"),
        ("proteus cluster key /etc/proteus/cluster.pem", "make it elsewhere"),
    ),
    "proteus cluster down": (
        ("proteus cluster down", "end the agents of the Ray cluster that this machine is part of"),
        ("proteus cluster down ray://head:10001", "of another one"),
    ),
    "proteus agent": (
        ("proteus agent --listen 0.0.0.0:7000 --key cluster.pem", "offer this machine's devices to a server"),
        ("proteus agent --listen 127.0.0.1:7000", "the same for a server on this machine, without a key"),
    ),
    "proteus replay": (
        ("proteus replay trace.csv --policy proteus,most-accurate --report page.html", "simulate and compare"),
        ("proteus replay trace.csv --url http://127.0.0.1:8000 --json", "send it to a server"),
    ),
    "proteus trace": (
        ("proteus trace make burst --rate 200qps --peak 900qps --duration 60s -o t.csv", "make a trace"),
        ("proteus trace info t.csv", "say what it asks for"),
    ),
    "proteus trace convert": (
        ("proteus trace convert burstgpt.csv -o t.csv.gz", "a published trace; its first line tells the format"),
        ("proteus trace convert log.csv --map-column time_ms=at -o t.csv", "any other CSV"),
    ),
    "proteus trace make": (
        ("proteus trace make burst --rate 200qps --peak 900qps --duration 60s -o t.csv", "a burst in the middle"),
        ("proteus trace make poisson --rate 50qps --duration 1h --per-second -o p.csv.gz",
         "an hour of it, in a short file"),
    ),
    "proteus trace info": (
        ("proteus trace info t.csv", "arrivals, rates and families"),
        ("proteus trace info t.csv.gz --json", "the same as JSON"),
    ),
    "proteus study": (
        ("proteus study peak --family digits --budget 2min", "the highest rate that each variant carries on a device"),
        ("proteus study all --budget 5min", "all that makes sense for the workspace, and one page about it"),
    ),
    "proteus study concurrency": (
        ("proteus study concurrency --device cpu0", "the knee of each family's best variant, in flight and by threads"),
        ("proteus study concurrency --device gpu0 --variants detect-l --batch 8", "the slots that one variant needs"),
    ),
    "proteus study peak": (
        ("proteus study peak --family digits --device cpu0 --budget 2min", "of each variant, alone on a device"),
        ("proteus study peak --url http://127.0.0.1:8000 --family resnet --slo 50ms", "of a server of any make"),
    ),
    "proteus study share": (
        ("proteus study share --device cpu0", "what sharing costs three variants of the catalog"),
        (
            "proteus study share --device cpu0 --variants digits-s,signals-l --budget 60s",
            "two of your choice, within a minute",
        ),
    ),
    "proteus study startup": (
        ("proteus study startup --family digits", "of all its variants, on a device of each type"),
        ("proteus study startup --variant digits-xl --runs 100 --json", "of one, with more starts; print JSON"),
    ),
    "proteus study all": (
        ("proteus study all --budget 5min", "write studies.html within five minutes"),
        ("proteus study all --budget 1h --traffic trace.csv --price cpu-1c=0.03/h", "what serving that costs, too"),
    ),
    "proteus study cost": (
        ("proteus study cost --traffic trace.csv --price cpu-1c=0.03/h,gpu0=0.35/h", "by type of device"),
        ("proteus study cost --traffic trace.csv --fleet cpu-1c:8 --percentile p99.9", "of at most 8 devices"),
    ),
    "proteus study report": (
        ("proteus study report", "write studies.html, about all studies of the workspace"),
        ("proteus study report peak startup -o page.html", "about two of them"),
    ),
    "proteus samples": (
        ("proteus samples list", "list what `proteus serve --set samples=1%` has captured"),
        ("proteus samples export digits -o eval.npz", "make an eval split of requests with labels"),
    ),
    "proteus samples list": (
        ("proteus samples list", "requests, rows and labels by family"),
        ("proteus samples list --state /var/lib/proteus --json", "of a server with a state directory, as JSON"),
    ),
    "proteus samples export": (
        ("proteus samples export digits -o eval.npz", "make an eval split of requests with labels"),
        ("proteus samples export digits -o new.npz --as train --since 2d", "all rows of two days, to train with"),
    ),
    "proteus samples clear": (
        ("proteus samples clear digits", "remove the samples of a family"),
        ("proteus samples clear", "remove all samples"),
    ),
    "proteus engines": (
        ("proteus engines ls", "list the engines that were built for GPUs"),
        ("proteus engines prune --dry-run", "show which are of no use any more"),
    ),
    "proteus engines ls": (
        ("proteus engines ls", "list the engines that were built for GPUs"),
        ("proteus engines ls --json", "the same as JSON"),
    ),
    "proteus engines verify": (
        ("proteus engines verify", "exit with code 1 if an engine is stale"),
        ("proteus engines verify --json", "the stale ones as JSON"),
    ),
    "proteus engines prune": (
        ("proteus engines prune --dry-run", "show what would be removed"),
        ("proteus engines prune", "remove it"),
    ),
    "proteus doctor": (
        ("proteus doctor", "check this machine and the workspace"),
        ("proteus doctor --cluster hosts.toml --json", "check the hosts of a cluster, too; print JSON"),
    ),
    "proteus demo": (
        ("proteus demo", "in the directory proteus-demo"),
        ("proteus demo /tmp/demo --residency 1 --no-cascades", "in another one, with one variant on a core"),
    ),
})  # fmt: skip
