"""Times training steps, attention and roofline figures in PyTorch; prints a line of JSON for each.

    python3 bench/pytorch/train.py NAME[:eager][:dropout]... | attention[:B,H,M,N,D]... | roofline
    torchrun --nproc-per-node 2 bench/pytorch/train.py NAME...      (DistributedDataParallel, NAME's batch on each GPU)

NAME: a key of CONFIGS in model.py, which has the shapes of configs/bench/NAME.yaml. A step is torch.compile'd (unless
eager), bf16 under autocast on a GPU and float32 on a CPU, with gradient clipping and fused AdamW.
"""
import argparse
import contextlib
import json
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from model import CONFIGS, Model, step_flops

torch.backends.cuda.matmul.allow_tf32 = True
torch.backends.cudnn.allow_tf32 = True


RANKS = int(os.environ.get("WORLD_SIZE", 1))
RANK = int(os.environ.get("RANK", 0))


def report(**fields):
    if RANK == 0:
        print(json.dumps(fields), flush=True)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def train(name, compiled=True, dropout=0.0, steps=8):
    c = CONFIGS[name]
    device = c.get("device", "cuda")
    torch.manual_seed(0)
    model = Model(**c, dropout=dropout).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    parallel = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if RANKS > 1 else model
    run = torch.compile(parallel) if compiled else parallel
    tokens = torch.randint(3, c["vocab"], (c["batch"], c["ctx"]), device=device)
    y = torch.randint(3, c["vocab"], (c["batch"], c["latents"]), device=device)

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = run(tokens, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    start = time.time()
    for _ in range(3):
        loss = step()
    synchronize(device)
    warmup = time.time() - start
    times = []
    for _ in range(steps):
        synchronize(device)
        start = time.time()
        loss = step()
        synchronize(device)
        times.append(time.time() - start)
    seconds = sorted(times)[len(times) // 2]
    flops = step_flops(c) * c["batch"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0
    report(bench="train", config=name, ranks=RANKS, compiled=compiled, dropout=dropout, parameters_m=round(parameters / 1e6, 1),
           step_ms=round(seconds * 1e3, 2), tflops=round(flops / seconds / 1e12, 3),
           latent_tokens_s=round(c["batch"] * c["latents"] / seconds), peak_gib=round(peak, 2),
           warmup_s=round(warmup, 1), loss=round(loss.item(), 3))
    del model, optimizer, run
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def median_ms(function, repeats, warmup=3):
    """Each call between two events of its own."""
    for _ in range(warmup):
        function()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[repeats // 2]


# Batch, heads, queries, keys, head width.
ATTENTION_SHAPES = [
    (8, 16, 1024, 12288, 64), (4, 16, 1024, 131072, 64), (4, 16, 1024, 32768, 128), (16, 16, 1024, 1024, 64),
    (4, 16, 8192, 8192, 64), (4, 16, 8192, 8192, 128), (2, 16, 16384, 16384, 128),
    (8, 4, 1024, 12288, 256), (4, 8, 8192, 8192, 256)]


def attention_call(backend, q, k, v):
    """A context, a call and the number of query-key pairs that count; None where the backend lacks the mask."""
    M, N = q.shape[2], k.shape[2]
    causal = M * N - M * (M - 1) / 2
    if backend == "flash":
        if M == N:
            call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            call = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(M, N))
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION), call, causal
    if backend == "cudnn_full":  # no mask: an upper bound of cuDNN's rate on this rectangle
        return sdpa_kernel(SDPBackend.CUDNN_ATTENTION), lambda: F.scaled_dot_product_attention(q, k, v), M * N
    if backend == "cudnn_causal":
        call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (sdpa_kernel(SDPBackend.CUDNN_ATTENTION), call, causal) if M == N else None
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    offset = N - M
    mask = create_block_mask(lambda b, h, i, n: i + offset >= n, None, None, M, N, device="cuda")
    compiled = torch.compile(flex_attention)
    return contextlib.nullcontext(), lambda: compiled(q, k, v, block_mask=mask), causal


def attention(shapes):
    for B, H, M, N, D in shapes:
        q, k, v = (torch.randn(B, H, rows, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
                   for rows in (M, N, N))
        gradient = torch.randn(B, H, M, D, device="cuda", dtype=torch.bfloat16)
        for backend in ("flash", "cudnn_full", "cudnn_causal", "flex"):
            shape = dict(bench="attention", backend=backend, B=B, H=H, M=M, N=N, D=D)
            try:
                made = attention_call(backend, q, k, v)
                if made is None:
                    continue
                context, call, pairs = made
                flops = 4 * B * H * D * pairs
                with context:
                    with torch.no_grad():
                        forward = median_ms(call, 10)
                    out = call()
                    backward = median_ms(
                        lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), 10)
                report(**shape, forward_ms=round(forward, 3), forward_tflops=round(flops / forward / 1e9, 1),
                       backward_ms=round(backward, 3), backward_tflops=round(2.5 * flops / backward / 1e9, 1))
            except Exception as error:  # a backend that does not support the shape
                report(**shape, error=str(error)[:160])
        del q, k, v, gradient
        torch.cuda.empty_cache()


def loop_ms(function, repeats):
    """The mean of back-to-back calls."""
    for _ in range(3):
        function()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats


def roofline():
    for M, N, K, repeats in [(8192, 8192, 8192, 20), (8192, 4096, 1024, 50), (8192, 1024, 4096, 50),
                             (8192, 3072, 1024, 50), (8192, 1024, 1024, 50), (98304, 2048, 1024, 50)]:
        a = torch.randn(M, K, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(N, K, device="cuda", dtype=torch.bfloat16)
        ms = loop_ms(lambda: a @ b.t(), repeats)
        report(bench="gemm", M=M, N=N, K=K, tflops=round(2 * M * N * K / ms / 1e9, 1))
    x = torch.empty(2**30, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    ms = loop_ms(lambda: y.copy_(x), 10)
    report(bench="copy", tb_s=round(2 * x.numel() * 4 / ms / 1e9, 2))


def main():
    parser = argparse.ArgumentParser(description="Times training steps, attention and roofline figures in PyTorch.")
    parser.add_argument("what", nargs="+", help="NAME[:eager][:dropout], attention[:B,H,M,N,D]... or roofline")
    names = parser.parse_args().what
    if RANKS > 1:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")
    for what in names:
        name, *options = what.split(":")
        if name == "roofline":
            roofline()
        elif name == "attention":
            attention([tuple(int(x) for x in shape.split(",")) for shape in options] or ATTENTION_SHAPES)
        else:
            train(name, compiled="eager" not in options, dropout=0.1 if "dropout" in options else 0.0)
    if RANKS > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
