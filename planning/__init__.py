"""What a job will run and what it guarantees, as values, before anything runs.

``plan`` compiles it; ``noise`` holds what a private job does at one client, ``client_level`` the same
if noise in the sum hides whole clients; ``encryption`` says who is summed with whom, ``vector`` what
rides in one sum, ``limits`` how far an entry of it goes; ``evaluation`` and ``schedule`` what tests
release and when; ``refusals`` what no plan has; ``guarantee`` what is promised, in one sentence.
"""
