"""python -m llama_jola"""

from llama_jola import main

main()
