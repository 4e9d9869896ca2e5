"""What another implementation computes with a folder that `perceiver export` wrote, as a file that
`perceiver import --compare` reads.
usage: peer_forward.py krasserm|lucidrains FOLDER OUT.safetensors
Exit code 77: a Python package is missing (perceiver-io 0.11.0, perceiver-ar-pytorch 0.0.10, torch, safetensors)."""
import json
import sys

try:
    import torch
    from safetensors.torch import load_file, save_file
    if sys.argv[1] == "krasserm":
        from perceiver.model.core.config import CausalSequenceModelConfig
        from perceiver.model.core.modules import CausalSequenceModel
    else:
        from perceiver_ar_pytorch import PerceiverAR
except ImportError as error:
    print(error)
    sys.exit(77)

port, folder, out = sys.argv[1:]
configuration = json.load(open(folder + "/config.json"))
tensors = load_file(folder + "/model.safetensors")
torch.manual_seed(0)
if port == "krasserm":
    c = configuration["model_config"]
    model = CausalSequenceModel(CausalSequenceModelConfig.create(**c))
    model.load_state_dict({k.removeprefix("backend_model."): v for k, v in tensors.items()}, strict=True)
    ids, length, prefix = c["vocab_size"], c["max_seq_len"], c["max_seq_len"] - c["max_latents"]
else:
    c = configuration
    model = PerceiverAR(**c)
    model.load_state_dict(tensors, strict=True)
    ids, length, prefix = c["num_tokens"], c["max_seq_len"], c["cross_attn_seq_len"]
# Padding is a token there and never inside a row here: 0 of 262 ids (text), 388 of 389 (music).
first, last = (1, ids) if ids == 262 else (0, ids - 1) if ids == 389 else (0, ids)
model = model.double().eval()
tokens = torch.randint(first, last, (3, length + 1))
with torch.no_grad():
    x = tokens[:, :-1]
    logits = model(x, prefix_len=prefix).logits if port == "krasserm" else model(x)
labels = tokens[:, 1 + prefix:]
loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=0 if port == "lucidrains" else -100)
save_file({"in/tokens": x.int().contiguous(), "in/labels": labels.int().contiguous(), "in/prefix_len": torch.tensor([prefix]).int(),
           "out/logits_exact": logits.float().contiguous(), "out/loss": loss.float().reshape(1)}, out)
