"""Speaks to a running `perceiver serve` with OpenAI's client library: openai_client.py ADDRESS MODEL"""
import sys

import openai

address, model = sys.argv[1:]
client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
assert model in [each.id for each in client.models.list()]
assert client.models.retrieve(model).id == model

request = dict(model=model, prompt="Once", max_tokens=12, seed=1, temperature=0.8, top_p=0.9)
whole = client.completions.create(**request, logprobs=2, extra_body={"ignore_eos": True})
assert whole.usage.completion_tokens == 12 and len(whole.choices[0].logprobs.tokens) == 12
assert whole.choices[0].finish_reason == "length"

pieces = list(client.completions.create(**request, stream=True, stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))
assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
assert pieces[-1].usage.completion_tokens == 12

for bad, kind in ((dict(request, max_tokens=-1), openai.BadRequestError), (dict(request, model="other"), openai.NotFoundError)):
    try:
        client.completions.create(**bad)
        raise SystemExit(f"not refused: {bad}")
    except kind as error:
        assert "must be" in str(error) or "no model" in str(error)
print("5 passed, 0 failed")
