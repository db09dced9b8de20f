"""What a job will run and what it guarantees, as values, before anything runs.

``terms`` holds every number that both sides derive from a job and its consortium, ``plan`` compiles
them all. ``noise`` is what a private job does at one client, ``cohorts`` who is asked and summed with
whom, ``vector`` what rides in one sum, ``limits`` how far an entry of it goes; ``evaluation`` and
``schedule`` say what tests release and when, ``refusals`` what no plan has, ``encryption`` and
``client_level`` why, ``guarantee`` what is promised, in one sentence.
"""
