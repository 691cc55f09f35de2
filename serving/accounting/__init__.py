"""Whose the device's time and energy were.

work_model    a step's time, split over the requests in it by what each made it do
device_time   the device's clock: attributed, busy for nobody, idle
energy        what the device took, charged as its time is
neighbours    our part of it, where other programs compute on the same GPUs
gpus          the devices' names
shadow        what caches that are not there would have saved
"""
