"""One model over several devices of a machine: tensor parallel.

Each device has a process, its rank, with a part of every layer (models/share.py). Rank 0, the leader, is the server: it
schedules, and chooses tokens. It sends each step as numbers to the others, the followers, which compute their part of it;
what the parts give is added up layer by layer (layers/parallel.py).

    orders     what the leader tells the followers
    group      how ranks find each other, and which device is whose
    leader     rank 0's hold on the others
    follower   what another rank does: python -m serving.parallel.follower
"""
