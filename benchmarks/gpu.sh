#!/bin/sh
# benchmarks/gpu.sh OUT [cpu|cuda]: what is measured and tested on a GPU, in at most eight minutes.
#
# Results are JSON lines in OUT/*.jsonl, the output of each part is OUT/PART.log, and OUT/table.md is made of them. Every
# part has a time limit, and the others run whatever becomes of it. Without a GPU the same commands run on the CPU with
# narrow models, which shows that they work and nothing else. PYTHON is the interpreter (default: python).
set -eu

if [ "$#" -lt 1 ] || [ "$#" -gt 2 ]; then
    echo "usage: benchmarks/gpu.sh OUT [cpu|cuda]" >&2
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
device=${2:-$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
running=
trap 'kill $running 2>/dev/null || true; exit 130' INT
trap 'kill $running 2>/dev/null || true; exit 143' TERM
rm -f "$out"/*.jsonl "$out"/*.log "$out"/table.md

export PYTHONPATH="$PWD" HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 MLFLOW_DISABLE_TELEMETRY=true
# Nothing that was compiled before counts, and what is compiled here serves the later parts.
export XDG_CACHE_HOME="$work/cache" TORCHINDUCTOR_CACHE_DIR="$work/inductor"

# part NAME SECONDS COMMAND...: run a command for at most so long, and note how it ended.
part() {
    name=$1
    limit=$2
    shift 2
    started=$(date +%s)
    status=0
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 &
    running=$!
    wait "$running" || status=$?
    seconds=$(($(date +%s) - started))
    printf '{"part": "run", "name": "%s", "device": "%s", "status": %d, "seconds": %d, "limit": %d}\n' \
        "$name" "$device" "$status" "$seconds" "$limit" >>"$out/runs.jsonl"
    echo "$name: status $status after $seconds of $limit s"
}

# training NAME SECONDS ARGUMENTS..., captioning NAME SECONDS MODULE ARGUMENTS...: parts with what they share.
training() {
    name=$1
    limit=$2
    shift 2
    part "$name" "$limit" "$python" -m benchmarks.training --data "$work/data/captions.json" --device "$device" \
        --vision_model_name "$work/clip" --language_model_name "$work/qwen3" --dtype "$dtype" --captions 5 "$@"
}

captioning() {
    name=$1
    limit=$2
    module=$3
    shift 3
    part "$name" "$limit" "$python" -m "benchmarks.$module" --data "$work/data/captions.json" --device "$device" \
        --vision_model_name "$work/clip" --language_model_name "$work/qwen3" --dtype "$dtype" "$@"
}

tests="tests/train/test_training_on_devices.py tests/generate/test_decoding_on_devices.py"

if [ "$device" = cuda ]; then
    dtype=bfloat16
    part stand_ins 40 "$python" -m benchmarks.stand_ins "$work" --pictures 1000
    # Beside the tests, what the measurements compile is compiled for the first time.
    training warm_ours 105 --one ours --compile --batch 32 --steps 3 --warmup 1 &
    training warm_trainer_32 105 --one stock --compile --batch 32 --steps 3 --warmup 1 &
    training warm_trainer_64 105 --one stock --compile --batch 64 --steps 3 --warmup 1 &
    captioning warm_decoding 105 decoding --compile --greedy_batch 32 --beam_batch 32 &
    # shellcheck disable=SC2086  # several files
    part tests 105 "$python" -m pytest $tests -m "" -k cuda -q -rs
    wait
    training training 150 --compile --compile_best --batches 32 --stock_batches 32 64 --steps 25 --warmup 5 \
        --results "$out/training.jsonl"
    captioning decoding 30 decoding --greedy_batch 32 1 256 --beam_batch 32 1 256 --results "$out/decoding.jsonl"
    captioning decoding_compiled 70 decoding --compile --greedy_batch 32 1 256 --beam_batch 32 1 256 \
        --results "$out/decoding_compiled.jsonl"
    captioning serving 80 serving --clients 16 --seconds 4 --sides ours stock --results "$out/serving.jsonl"
else
    dtype=float32
    export CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1 # on a busy machine threads would wait for each other
    part stand_ins 600 "$python" -m benchmarks.stand_ins "$work" --small --pictures 64
    # shellcheck disable=SC2086  # several files
    part tests 600 "$python" -m pytest $tests -m "not long" -k cpu -q -rs
    training training 600 --batches 2 --stock_batches 4 --steps 2 --warmup 1 --results "$out/training.jsonl"
    captioning decoding 600 decoding --greedy_batch 4 --beam_batch 2 --results "$out/decoding.jsonl"
    captioning decoding_compiled 600 decoding --compile --greedy_batch 1 --beam_batch 1 \
        --results "$out/decoding_compiled.jsonl"
    captioning serving 600 serving --clients 2 --seconds 3 --sides ours --results "$out/serving.jsonl"
fi

"$python" -m benchmarks.gpu_table "$out"
! grep -q '"status": [1-9]' "$out/runs.jsonl"
