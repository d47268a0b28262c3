"""Profiles as CSV, one row per batch size, columns in any order::

    device_type,family,variant,accuracy,batch,latency_ms[,p50_ms][,p90_ms][,p95_ms][,p99_ms]
    [,load_s][,memory_bytes][,power_w][,device_memory_bytes][,slots][,slot_bytes][,device_slots][,noise_frac]
    [,model_digest][,device_kind]
    [,network_round_trip_ms,network_bytes_per_s[,network_row_bytes]]

An empty cell is unknown. Numbers are kept to the last digit, so that an export that is imported gives the same points.

`reading` takes text to rows (`columns.ProfileRow`), of which none may contradict another (`contradictions`), and
`profiles` takes these to profiles. `writing` is the way back.
"""
