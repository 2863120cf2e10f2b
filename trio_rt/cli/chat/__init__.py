"""`trio-rt chat`: rooms in a terminal, by urwid. It needs the extra `tui`.

General layout, from the bottom up:

    text, lines              pure: texts of strangers, and lines of a width
    rows, timeline, view     pure: what a room's past looks like, and which part is shown
    commands, status, moods  pure: what a line of input means; what goes on, in words
    tab, desk                the rooms that are open, and which is shown
    face                     pure but for the input: the whole screen as lines
    entry, colours           the input line, and the palette
    rooms, sending, actions  what happens in rooms, and what the user does there
    terminal, app            the screen's tasks; the program
"""
