select one_second() \watch 1
