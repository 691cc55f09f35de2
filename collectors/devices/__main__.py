from collectors.devices.agent import main

main()
