"""The page of `ddis studio`: what the command line does, to look at while it happens.

It puts what is chosen into words of `ddis generate` and carries out the command that these words ask for; it decides
nothing by itself. Only `page`, `make_tab`, `browse_tab`, `compare_tab` and `server` know Gradio, which is imported when
a page is built.
"""
