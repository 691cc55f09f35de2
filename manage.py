#!/usr/bin/env python
from costwatch.__main__ import main

if __name__ == "__main__":
    main()
