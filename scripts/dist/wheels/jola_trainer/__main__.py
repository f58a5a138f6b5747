"""python -m jola_trainer"""

from jola_trainer import main

main()
