"""A host for the plugin's tests: llama-cpp-python as pip built it, on the CPU.

usage: python client.py MODEL CONTEXT_SIZE THREADS [LORA]

Prints {"ready": true}, then answers each line {"tokens": […], "n_predict": N, "n_probs": K}
of stdin with {"tokens": […], "top": [[[id, log-probability], …], …]}: the greedy continuation.
"""

import json
import sys

import numpy as np
from llama_cpp import Llama, llama_get_logits_ith


def main() -> None:
    path, context_size, threads, *lora = sys.argv[1:]
    llama = Llama(
        path,
        n_gpu_layers=0,
        n_ctx=int(context_size),
        n_threads=int(threads),
        n_threads_batch=int(threads),
        lora_path=lora[0] if lora else None,
        verbose=False,
    )
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        llama.reset()
        tokens, top = [], []
        for token in llama.generate(request["tokens"], temp=0.0, repeat_penalty=1.0):
            if token == llama.token_eos() or len(tokens) == request["n_predict"]:
                break
            # The logits that chose this token: nothing was decoded since.
            logits = llama_get_logits_ith(llama.ctx, -1)
            logits = np.ctypeslib.as_array(logits, (llama.n_vocab(),)).astype(np.float64)
            logits -= logits.max()
            logits -= np.log(np.exp(logits).sum())
            best = np.argsort(-logits)[: request["n_probs"]]
            tokens.append(int(token))
            top.append([[int(i), float(logits[i])] for i in best])
        print(json.dumps({"tokens": tokens, "top": top}), flush=True)


if __name__ == "__main__":
    main()
