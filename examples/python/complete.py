"""An edit in llama-cpp-python as pip installs it.

    llama-jola with edit.gguf -- python examples/python/complete.py base.gguf 'Message: …'

The edit comes from outside, through environment variables, and has to be there before Python
starts: os.environ is too late for LD_PRELOAD.
"""

import sys

from llama_cpp import Llama

base, prompt = sys.argv[1:]
llm = Llama(model_path=base, n_ctx=2048, verbose=False)  # fails when the edit is not for this model
reply = llm.create_completion(prompt, max_tokens=8, temperature=0)
print(reply["choices"][0]["text"])
