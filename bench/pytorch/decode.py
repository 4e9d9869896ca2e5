"""Times generation in PyTorch, one token at a time; prints a line of JSON for each configuration.

    python3 bench/pytorch/decode.py NAME... [--batch N,N...]
    python3 bench/pytorch/decode.py NAME... --device cpu [--type bfloat16] [--threads N]

On a GPU the gpt-fast recipe: static KV caches, torch.compile with CUDA graphs, bf16 weights; on a CPU static caches,
eager. `fraction` is the share of the memory bound that is reached: bytes of weights and caches read per step over the
bandwidth, which is that of a copy on an H100, or what reading a large tensor reaches on this CPU.
"""
import argparse
import json
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

from model import CONFIGS

COPY_BANDWIDTH = 3.0e12  # bytes per second of a copy on an H100
torch._inductor.config.coordinate_descent_tuning = True
torch._inductor.config.triton.unique_kernel_names = True


def rotate(x, cos, sin):
    """Rotates interleaved pairs of the first 2 * cos.numel() channels of x [B, heads, 1, head width]."""
    k = 2 * cos.numel()
    rotated, passed = x[..., :k], x[..., k:]
    a, b = rotated[..., ::2], rotated[..., 1::2]
    return torch.cat((torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2), passed), -1)


class Block(nn.Module):
    """Attention over a full cache of `slots` keys and values, one of which is written, and an MLP."""

    def __init__(self, d, heads, slots, batch):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        shape = (batch, heads, slots, d // heads)
        self.register_buffer("k", torch.randn(shape))
        self.register_buffer("v", torch.randn(shape))
        self.register_buffer("index", torch.arange(slots))

    def forward(self, z, slot, cos, sin, sdpa):
        B, D = z.shape
        q, k, v = self.qkv(self.norm1(z)).view(B, 3, self.heads, 1, D // self.heads).unbind(1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        self.k.index_copy_(2, slot, k)
        self.v.index_copy_(2, slot, v)
        mask = (self.index <= slot)[None, None, None]
        if sdpa:
            y = F.scaled_dot_product_attention(q, self.k, self.v, attn_mask=mask)
        else:
            scores = (q @ self.k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
            y = torch.softmax(scores.float().masked_fill(~mask, float("-inf")), -1).to(z.dtype) @ self.v
        z = z + self.out(y.reshape(B, D))
        return z + self.down(F.relu(self.up(self.norm2(z))).square())


class Decoder(nn.Module):
    def __init__(self, c, batch):
        super().__init__()
        d, heads = c["d"], c["h"]
        self.embedding, self.project = nn.Embedding(c["vocab"], d), nn.Linear(d, d)
        slots = ([] if c.get("plain") else [c["ctx"]]) + [c["latents"]] * c["layers"]
        self.cross = not c.get("plain")
        self.blocks = nn.ModuleList(Block(d, heads, n, batch) for n in slots)
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, c["vocab"])
        self.register_buffer("frequencies", 1.0 / c["ctx"] ** torch.linspace(0, 1, d // heads // 4))

    def forward(self, token, position, context_slot, latent_slot, sdpa):
        angles = position.float() * self.frequencies
        z = self.project(self.embedding(token))
        cos, sin = torch.cos(angles).to(z.dtype), torch.sin(angles).to(z.dtype)
        for i, block in enumerate(self.blocks):
            z = block(z, context_slot if i == 0 and self.cross else latent_slot, cos, sin, sdpa)
        probabilities = torch.softmax(self.out(self.norm(z)).float(), -1)
        return torch.multinomial(probabilities, 1).squeeze(1)


def read_bandwidth():
    """Bytes per second that all threads reach when they read a tensor that no cache holds."""
    x = torch.ones(2**28)
    times = []
    for _ in range(5):
        start = time.time()
        x.sum()
        times.append(time.time() - start)
    return x.numel() * 4 / min(times)


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def run(name, batch, sdpa, options):
    c, device = dict(CONFIGS[name]), options.device
    c["ctx"], c["latents"] = options.context or c["ctx"], options.latents or c["latents"]
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(options.dtype)
        model = Decoder(c, batch)
        torch.set_default_dtype(torch.float32)
    on_gpu = device == "cuda"
    forward = torch.compile(model, mode="reduce-overhead", fullgraph=True) if on_gpu else model
    token = torch.randint(3, c["vocab"], (batch,), device=device)
    position = torch.tensor([c["ctx"] - 100], device=device)
    latent = torch.tensor([c["latents"] - 100], device=device)

    def step(token):
        token = forward(token, position, position, latent, sdpa).clone()
        position.add_(1)
        latent.add_(1)
        return token

    for _ in range(6 if on_gpu else 2):
        token = step(token)
    synchronize(device)
    bandwidth = COPY_BANDWIDTH if on_gpu else read_bandwidth()
    start = time.time()
    for _ in range(options.tokens):
        token = step(token)
    synchronize(device)
    seconds = (time.time() - start) / options.tokens
    width = torch.finfo(options.dtype).bits // 8
    weights = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding.")) * width
    caches = sum(b.k.numel() + b.v.numel() for b in model.blocks) * width
    bound = (weights + caches) / bandwidth
    memory = dict(peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2)) if on_gpu else {}
    print(json.dumps(dict(
        bench="decode", config=name, device=device, type=str(options.dtype).split(".")[1], batch=batch, sdpa=sdpa,
        step_us=round(seconds * 1e6, 1), tokens_s=round(batch / seconds, 1), weights_mb=round(weights / 1e6),
        caches_mb=round(caches / 1e6), bound_us=round(bound * 1e6, 1), fraction=round(bound / seconds, 3), **memory)), flush=True)
    del model, forward
    torch._dynamo.reset()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main():
    parser = argparse.ArgumentParser(description="Times generation in PyTorch, one token at a time.")
    parser.add_argument("configs", nargs="+", choices=list(CONFIGS), metavar="NAME", help=", ".join(CONFIGS))
    parser.add_argument("--batch", default="1", help="sequences side by side, e.g. 1,8,64")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--type", choices=["bfloat16", "float32"], help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--context", type=int, help="instead of the configuration's, 128 at least")
    parser.add_argument("--latents", type=int, help="instead of the configuration's, 128 at least; of the plain Transformer the context")
    parser.add_argument("--threads", type=int, help="of a CPU")
    parser.add_argument("--tokens", type=int, help="default: 60 on a GPU, 16 on a CPU")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    options.dtype = getattr(torch, options.type or ("bfloat16" if on_gpu else "float32"))
    options.tokens = options.tokens or (60 if on_gpu else 16)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in options.configs:
        for batch in map(int, options.batch.split(",")):
            for sdpa in (False, True):
                try:
                    run(name, batch, sdpa, options)
                except Exception as error:  # report it and go on with the next
                    print(json.dumps(dict(bench="decode", config=name, batch=batch, sdpa=sdpa, error=str(error)[:200])), flush=True)


if __name__ == "__main__":
    main()
